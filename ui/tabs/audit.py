"""The Audit tab: the run folders, what each found, and one quick audit at a time, live, also of one's own prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from probes.errors import AuditError
from shield.errors import ShieldError
from ui import render, render_runs
from ui.folders import stages_of
from ui.inputs import ACCEPTED
from ui.tabs.uploading import upload_part

if TYPE_CHECKING:
    from ui.page import Page

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
EVERY = 2.0
ALL = "(all)"
READING = "Reading the run …"
NOTHING = "Open a run to see what it found."
NONE = "There are no run folders yet: start a quick audit here, or write one with diffshield audit --out."
OWN = (
    "A file of prompts, the pictures that a column of it names, or a .zip of both; of pictures alone each one's name "
    "is its prompt. Copies are told where there is a picture. Without a file the works of a shipped model are audited."
)


def audit_tab(page: Page, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """Builds the tab inside the current Blocks."""
    timer, seen, rows = gr.Timer(EVERY, active=False), gr.State(()), gr.State([])
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            runs = gr.Dataframe(
                headers=list(render_runs.RUN_COLUMNS),
                label="Run folders; a row opens its run",
                interactive=False,
                max_height=330,
                buttons=[],
                elem_id="runs",
            )
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(
                list(page.models.names), value=page.models.names[0], label="Model to audit", filterable=False
            )
            with gr.Accordion("Your own prompts and pictures", open=False, elem_id="own"):
                gr.HTML(str(render.note(OWN)))
                files = upload_part("Choose prompts and pictures", ACCEPTED, "own-files")
                limit = gr.Number(20, label="Prompts at most", precision=0, minimum=1)
            start = gr.Button("Start a quick audit", variant="primary", elem_id="start-audit")
            with gr.Row():
                cancel = gr.Button("Cancel the audit", interactive=False, elem_id="cancel-audit", min_width=120)
                resume = gr.Button("Continue the run", interactive=False, elem_id="resume-audit", min_width=120)
            state = gr.HTML(elem_id="audit-state")
            said = gr.HTML(elem_id="audit-said")
    with gr.Row(equal_height=False):
        chosen = gr.Dropdown([], value=None, label="Open a run", elem_id="run", scale=4)
        refresh = gr.Button("Look again", scale=1)
    parts, wanted, pages = _panels()
    opened = [*parts, resume, seen]
    inputs, live = [chosen, *wanted], [runs, rows, chosen, state, timer, start, cancel]
    gr.on([blocks.load, tab.select, refresh.click], _listed(page), rows, live, **HIDDEN)
    runs.select(_row, None, chosen, **HIDDEN)
    reading = [str(render.note(READING))] * 4
    chosen.change(None, None, [parts[0], parts[2], *pages], js=f"() => {json.dumps(reading)}", **HIDDEN)
    read = chosen.change(_opened(page), chosen, opened, **HIDDEN)
    read.then(_pages(page), inputs, pages, **HIDDEN)
    gr.on([part.change for part in wanted], _pages(page), inputs, pages, trigger_mode="always_last", **HIDDEN)
    text, group, order, copies, number, stage, needle, place = wanted
    for filters, first in (([text, group, order, copies], number), ([stage, needle], place)):
        gr.on([part.change for part in filters], None, None, first, js="() => 1", **HIDDEN)
    start.click(_starter(page), [rows, model, files, limit], [*live, said], **HIDDEN)
    resume.click(_resumer(page), [rows, chosen], [*live, said], **HIDDEN)
    cancel.click(_canceler(page), rows, [*live, said], **HIDDEN)
    again = timer.tick(_listed(page), rows, live, **HIDDEN).then(_again(page), [chosen, seen], opened, **HIDDEN)
    again.then(_pages(page), inputs, pages, **HIDDEN)


def _panels() -> tuple[list[Any], list[Any], list[Any]]:
    """What an opened run shows: its parts, the fields that filter two of them, and those two."""
    with gr.Tabs():
        with gr.Tab("Summary", id="summary"):
            report = gr.DownloadButton("Download the whole report (HTML)", visible=False, size="sm")
            summary = gr.HTML(str(render.note(NOTHING)), elem_id="run-summary")
        with gr.Tab("Curves", id="curves"):
            curves = gr.HTML(elem_id="run-curves")
        with gr.Tab("Works", id="works"):
            with gr.Row():
                text = gr.Textbox(label="Find in name or prompt", max_length=100)
                group = gr.Dropdown([ALL], value=ALL, label="Group", filterable=False)
                order = gr.Dropdown(
                    list(render_runs.SORTS), value=render_runs.SORTS[0], label="Order", filterable=False
                )
                number = gr.Number(1, label="Page", precision=0, minimum=1)
            copies = gr.Checkbox(label="Only works that were copied", container=False)
            works = gr.HTML(elem_id="run-works")
        with gr.Tab("Records", id="records"):
            with gr.Row():
                needle = gr.Textbox(label="Find in work, prompt or reason", max_length=100)
                stage = gr.Dropdown([ALL], value=ALL, label="Stage", filterable=False)
                place = gr.Number(1, label="Page", precision=0, minimum=1)
            records = gr.HTML(elem_id="run-records")
    return (
        [summary, report, curves, group, stage],
        [text, group, order, copies, number, stage, needle, place],
        [works, records],
    )


def _row(event: gr.SelectData) -> str:
    """The run of a row that was picked."""
    return str(event.row_value[0])


def _listed(page: Page) -> Callable[[list[Any]], list[Any]]:
    return lambda before: _list(page, before)


def _list(page: Page, before: list[Any], opened: str | None = None) -> list[Any]:
    """The runs, twice, the choice among them, the run's state, whether to look again soon, and what can be started or
    canceled.

    `opened` is chosen; without it a visitor's choice stays. So does the table where it says the same as `before`.
    """
    runner = page.runner
    running, (sentence, done, total) = runner.running, runner.state()
    listed = page.folders.listed()  # after it: what has ended by then has written its last status
    names = [run.name for run in listed]
    if running and runner.name not in names:
        names = [str(runner.name), *names]
    bar = (done, total) if running else (None, None)
    flow = render_runs.flow(_entries(page, runner.name), running) if runner.name else render.EMPTY
    rows = render_runs.run_rows(listed)
    choice: dict[str, Any] = {} if opened is None else {"value": opened}
    return [
        gr.skip() if rows == before else gr.Dataframe(rows),
        rows,
        gr.Dropdown(names, **choice),
        str(render.status(sentence if listed or running else NONE, *bar, counted="Progress of the run") + flow),
        gr.Timer(active=running or any(run.live for run in listed)),
        gr.Button(interactive=not running),
        gr.Button(interactive=runner.cancelable),
    ]


def _entries(page: Page, name: str) -> list[dict[str, Any]]:
    """The stages of the run that was started last, if it is an audit; none while it begins."""
    try:
        run = page.folders.opened(name)
        return stages_of(run) if run.about.get("kind") == "audit" else []
    except ShieldError:
        return []


def _opened(page: Page) -> Callable[[str | None], list[Any]]:
    return lambda name: _open(page, name, {"value": ALL})


def _again(page: Page) -> Callable[..., list[Any]]:
    """Shows again what has been written to since; a visitor's filters stay."""

    def again(name: str | None, seen: Any) -> list[Any]:
        return [gr.skip()] * 7 if not name or _stamp(page, name) == tuple(seen) else _open(page, name, {})

    return again


def _open(page: Page, name: str | None, filters: dict[str, Any]) -> list[Any]:
    """What a run found, the stages and groups to choose from, whether it can be continued, and which state this is."""
    hidden, resume = gr.DownloadButton(visible=False), gr.Button(interactive=page.runner.resumable(name or ""))
    if not name:
        return [str(render.note(NOTHING)), hidden, "", gr.skip(), gr.skip(), resume, ()]
    try:
        seen = _stamp(page, name)
        run, records = page.folders.opened(name), page.folders.records(name)
        summary = render.EMPTY.join([render_runs.summary(run, records), render_runs.stages(stages_of(run))])
        curves, report = render_runs.curves(run, records), page.copied(name, "report.html")
    except ShieldError as error:
        said = render.note(READING) if page.runner.begins(name) else render.status(str(error), kind="bad")
        return [str(said), hidden, "", gr.skip(), gr.skip(), resume, (name,)]
    stages = list(dict.fromkeys(str(record.get("stage")) for record in records))
    button = hidden if report is None else gr.DownloadButton(value=report, visible=True)
    return [
        str(summary),
        button,
        str(curves),
        gr.Dropdown([ALL, *render_runs.groups(records)], **filters),
        gr.Dropdown([ALL, *stages], **filters),
        resume,
        seen,
    ]


def _stamp(page: Page, name: str) -> tuple[Any, ...]:
    """What changes when a run is written to, or this page's own audit ends."""
    return (name, page.runner.running, *page.folders.changed(name))


def _pages(page: Page) -> Callable[..., list[str]]:
    def pages(
        name: str | None,
        text: str,
        group: str,
        order: str,
        copies: bool,
        number: float,
        stage: str,
        needle: str,
        place: float,
    ) -> list[str]:
        if not name:
            return ["", ""]
        try:
            records, folder = page.folders.records(name), page.folders.path(name)
        except ShieldError as error:
            return [str(render.status(str(error), kind="bad")), ""]
        wanted = render_runs.Wanted(text or "", "" if group == ALL else group, copies, order, int(number or 1))
        return [
            str(render_runs.works(folder, records, wanted)),
            str(render_runs.record_table(records, "" if stage == ALL else stage, needle or "", int(place or 1))),
        ]

    return pages


def _starter(page: Page) -> Callable[..., list[Any]]:
    def start(rows: list[Any], model: str, files: list[str] | None, limit: float | None) -> list[Any]:
        given, most = [Path(file) for file in files or ()], int(limit) if limit else None
        return _done(page, rows, lambda: page.runner.start("audit", page.models.checked(model), given, most))

    return start


def _resumer(page: Page) -> Callable[..., list[Any]]:
    return lambda rows, name: _done(page, rows, lambda: page.runner.resume(name or ""))


def _canceler(page: Page) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: _done(page, rows, lambda: canceled(page))


def canceled(page: Page) -> None:
    """Cancels the run that was started here. Raises AuditError."""
    if not page.runner.cancel():
        raise AuditError("No run that was started from this page is going on.")


def _done(page: Page, rows: list[Any], change: Callable[[], str | None]) -> list[Any]:
    """The list after a change, which opens the run that it names; what was wrong stays until the next one."""
    try:
        return [*_list(page, rows, change()), ""]
    except (ShieldError, OSError) as error:
        return [*_list(page, rows), str(render.status(str(error), kind="bad"))]
