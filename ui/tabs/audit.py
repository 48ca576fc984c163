"""The Audit tab: the run folders, what each found, and one quick audit at a time, live."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from probes.errors import AuditError
from shield.errors import ShieldError
from ui import render, render_runs
from ui.folders import stages_of

if TYPE_CHECKING:
    from ui.page import Page

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
EVERY = 2.0
ALL = "(all)"
READING = "Reading the run …"
NOTHING = "Open a run to see what it found."


def audit_tab(page: Page, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """Builds the tab inside the current Blocks."""
    timer, seen = gr.Timer(EVERY, active=False), gr.State(())
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            runs = gr.HTML(elem_id="runs")
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(
                list(page.models.names), value=page.models.names[0], label="Model to audit", filterable=False
            )
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
    inputs, live = [chosen, *wanted], [runs, chosen, state, timer, start, cancel]
    gr.on([blocks.load, tab.select, refresh.click], _listed(page), None, live, **HIDDEN)
    reading = [str(render.note(READING))] * 4
    chosen.change(None, None, [parts[0], parts[2], *pages], js=f"() => {json.dumps(reading)}", **HIDDEN)
    read = chosen.change(_opened(page), chosen, opened, **HIDDEN)
    read.then(_pages(page), inputs, pages, **HIDDEN)
    gr.on([part.change for part in wanted], _pages(page), inputs, pages, trigger_mode="always_last", **HIDDEN)
    text, group, order, copies, number, stage, needle, place = wanted
    for filters, first in (([text, group, order, copies], number), ([stage, needle], place)):
        gr.on([part.change for part in filters], None, None, first, js="() => 1", **HIDDEN)
    start.click(_starter(page), model, [*live, said], **HIDDEN)
    resume.click(_resumer(page), chosen, [*live, said], **HIDDEN)
    cancel.click(_canceler(page), None, [*live, said], **HIDDEN)
    again = timer.tick(_listed(page), None, live, **HIDDEN).then(_again(page), [chosen, seen], opened, **HIDDEN)
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


def _listed(page: Page) -> Callable[[], list[Any]]:
    return lambda: _list(page)


def _list(page: Page, opened: str | None = None) -> list[Any]:
    """The runs, the choice among them, the audit's state, whether to look again soon, and what can be started or
    canceled.

    `opened` is chosen; without it a visitor's choice stays.
    """
    audits = page.audits
    running, (sentence, done, total) = audits.running, audits.state()
    listed = page.folders.listed()  # after it: what has ended by then has written its last status
    names = [run.name for run in listed]
    if running and audits.name not in names:
        names = [str(audits.name), *names]
    bar = (done, total) if running else (None, None)
    choice: dict[str, Any] = {} if opened is None else {"value": opened}
    return [
        str(render_runs.runs_table(listed)),
        gr.Dropdown(names, **choice),
        str(render.status(sentence, *bar, counted="Stages of the audit")),
        gr.Timer(active=running or any(run.live for run in listed)),
        gr.Button(interactive=not running),
        gr.Button(interactive=audits.cancelable),
    ]


def _opened(page: Page) -> Callable[[str | None], list[Any]]:
    return lambda name: _open(page, name, {"value": ALL})


def _again(page: Page) -> Callable[..., list[Any]]:
    """Shows again what has been written to since; a visitor's filters stay."""

    def again(name: str | None, seen: Any) -> list[Any]:
        return [gr.skip()] * 7 if not name or _stamp(page, name) == tuple(seen) else _open(page, name, {})

    return again


def _open(page: Page, name: str | None, filters: dict[str, Any]) -> list[Any]:
    """What a run found, the stages and groups to choose from, whether it can be continued, and which state this is."""
    hidden, resume = gr.DownloadButton(visible=False), gr.Button(interactive=page.audits.resumable(name or ""))
    if not name:
        return [str(render.note(NOTHING)), hidden, "", gr.skip(), gr.skip(), resume, ()]
    try:
        seen = _stamp(page, name)
        run, records = page.folders.opened(name), page.folders.records(name)
        summary = render.EMPTY.join([render_runs.summary(run, records), render_runs.stages(stages_of(run))])
        curves, report = render_runs.curves(run, records), page.report(name)
    except ShieldError as error:
        return [str(render.status(str(error), kind="bad")), hidden, "", gr.skip(), gr.skip(), resume, (name,)]
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
    return (name, page.audits.running, *page.folders.changed(name))


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


def _starter(page: Page) -> Callable[[str], list[Any]]:
    return lambda model: _done(page, lambda: page.audits.start(page.models.checked(model)))


def _resumer(page: Page) -> Callable[[str | None], list[Any]]:
    return lambda name: _done(page, lambda: page.audits.resume(name or ""))


def _canceler(page: Page) -> Callable[[], list[Any]]:
    def cancel() -> None:
        if not page.audits.cancel():
            raise AuditError("No audit that was started from this page is running.")

    return lambda: _done(page, cancel)


def _done(page: Page, change: Callable[[], str | None]) -> list[Any]:
    """The list after a change, which opens the run that it names; what was wrong stays until the next one."""
    try:
        return [*_list(page, change()), ""]
    except (ShieldError, OSError) as error:
        return [*_list(page), str(render.status(str(error), kind="bad"))]
