"""The Scan tab: a file of prompts, each with its score as it comes, and by which words the flagged ones pull."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from probes.inputs.prompts import FORMATS
from shield.errors import ShieldError
from ui import render
from ui.scans import COLUMNS, Scan
from ui.tabs.audit import EVERY, HIDDEN, READING, canceled
from ui.tabs.uploading import upload_part

if TYPE_CHECKING:
    from ui.page import Page

NOTHING = "Choose a file of prompts, one on each line, or a table with a column of prompts."
ASKS = (
    "Every prompt is scored by its first denoising step alone, on one noise, without a picture: which ones call up one "
    "certain picture? Without a file the works of a shipped model are scored."
)


def scan_tab(page: Page, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """Builds the tab inside the current Blocks."""
    timer, seen = gr.Timer(EVERY, active=False), gr.State(())
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            gr.HTML(str(render.note(ASKS)))
            file = upload_part("Choose a file of prompts", FORMATS, "scan-file", multiple=False)
            state = gr.HTML(elem_id="scan-state")
            said = gr.HTML(elem_id="scan-said")
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(
                list(page.models.names), value=page.models.names[0], label="Model to scan", filterable=False
            )
            limit = gr.Number(1000, label="Prompts to score at most", precision=0, minimum=1)
            start = gr.Button("Scan", variant="primary", elem_id="start-scan")
            with gr.Row():
                cancel = gr.Button("Cancel the scan", interactive=False, elem_id="cancel-scan", min_width=120)
                resume = gr.Button("Continue the scan", interactive=False, elem_id="resume-scan", min_width=120)
    chosen = gr.Dropdown([], value=None, label="Scan to show", elem_id="scan")
    found = gr.HTML(str(render.note(NOTHING)), elem_id="scan-found")
    rows = gr.Dataframe(
        headers=list(COLUMNS),
        label="Prompts by score; a row shows its words",
        interactive=False,
        wrap=True,
        max_height=420,
        column_widths=["max(46%, 14rem)", "max(10%, 5rem)", "max(14%, 7rem)", "max(30%, 14rem)"],  # wider than a phone
        buttons=[],
        elem_id="scan-rows",
    )
    words = gr.HighlightedText(
        label="How strongly each word pulls", show_legend=False, visible=False, elem_id="scan-words"
    )
    flagged = gr.DownloadButton("Download flagged.csv", visible=False, elem_id="flagged")
    live, shown = [chosen, state, timer, start, cancel], [found, rows, flagged, resume, seen]
    gr.on([blocks.load, tab.select], lambda: _listed(page), None, live, **HIDDEN)
    chosen.change(lambda name: _shown(page, name), chosen, shown, **HIDDEN).then(
        lambda: gr.HighlightedText(visible=False), None, words, **HIDDEN
    )
    rows.select(_picked(page), chosen, words, **HIDDEN)
    start.click(_starter(page), [model, file, limit], [*live, said], **HIDDEN)
    resume.click(lambda name: _done(page, lambda: page.runner.resume(name or "")), chosen, [*live, said], **HIDDEN)
    cancel.click(lambda: _done(page, lambda: canceled(page)), None, [*live, said], **HIDDEN)
    timer.tick(lambda: _listed(page), None, live, **HIDDEN).then(_again(page), [chosen, seen], shown, **HIDDEN)


def _listed(page: Page, opened: str | None = None) -> list[Any]:
    """The scans to choose from, the run's state, whether to look again soon, and what can be started or canceled."""
    runner = page.runner
    running, (sentence, done, total) = runner.running, runner.state()
    listed = page.folders.listed()
    names = [run.name for run in listed if run.kind == "scan"]
    if running and runner.verb == "scan" and runner.name not in names:
        names = [str(runner.name), *names]
    choice: dict[str, Any] = {} if opened is None else {"value": opened}
    bar = (done, total) if running else (None, None)
    return [
        gr.Dropdown(names, **choice),
        str(render.status(sentence, *bar, counted="Progress of the run")),
        gr.Timer(active=running or any(run.live for run in listed)),
        gr.Button(interactive=not running),
        gr.Button(interactive=runner.cancelable),
    ]


def _shown(page: Page, name: str | None) -> list[Any]:
    """What a scan found so far, its table, its list of flagged prompts, whether it goes on, and which state this is."""
    hidden = gr.DownloadButton(visible=False)
    resume = gr.Button(interactive=page.runner.resumable(name or ""))
    if not name:
        return [str(render.note(NOTHING)), gr.Dataframe([]), hidden, resume, ()]
    try:
        seen = _stamp(page, name)
        scan, flagged = Scan.read(page.folders, name), page.copied(name, "flagged.csv")
    except ShieldError as error:
        said = READING if page.runner.begins(name) else str(error)
        return [str(render.note(said)), gr.Dataframe([]), hidden, resume, (name,)]
    button = hidden if flagged is None else gr.DownloadButton(value=flagged, visible=True)
    return [str(render.note(scan.sentence())), gr.Dataframe(scan.rows()), button, resume, seen]


def _again(page: Page) -> Callable[..., list[Any]]:
    """Shows again what has been written to since."""

    def again(name: str | None, seen: Any) -> list[Any]:
        return [gr.skip()] * 5 if not name or _stamp(page, name) == tuple(seen) else _shown(page, name)

    return again


def _stamp(page: Page, name: str) -> tuple[Any, ...]:
    return (name, page.runner.running, *page.folders.changed(name))


def _picked(page: Page) -> Callable[..., Any]:
    """The words of the row that was picked, whatever the table is sorted or searched by."""

    def picked(name: str | None, event: gr.SelectData) -> Any:
        try:
            pieces: list[Any] = [*Scan.read(page.folders, name or "").marked(list(event.row_value))]
        except ShieldError:
            pieces = []
        return gr.HighlightedText(pieces, visible=bool(pieces))

    return picked


def _starter(page: Page) -> Callable[..., list[Any]]:
    def start(model: str, file: str | None, limit: float | None) -> list[Any]:
        given = [Path(file)] if file else []
        most = int(limit) if limit else None
        return _done(page, lambda: page.runner.start("scan", page.models.checked(model), given, most))

    return start


def _done(page: Page, change: Callable[[], str | None]) -> list[Any]:
    """The list after a change, which shows the scan that it names; what was wrong stays until the next one."""
    try:
        return [*_listed(page, change()), ""]
    except (ShieldError, OSError) as error:
        return [*_listed(page), str(render.status(str(error), kind="bad"))]
