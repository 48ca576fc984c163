"""The Shield tab: one prompt behind the shield and without it, step by step; the first one is there on load."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from shield.errors import ShieldError
from ui import render, shown
from ui.examples import Example, examples
from ui.jobs import BackgroundJob
from ui.request import DrawingRequest
from ui.tabs.asking import HIDDEN, PRESS, examples_part, known_part, prompt_part, seed_part

if TYPE_CHECKING:
    from ui.drawing import Drawing
    from ui.page import Page

POLICIES = [
    ("balanced: mitigate what is flagged", "balanced"),
    ("strict: also block what can't be judged", "strict"),
    ("monitor: only watch", "monitor"),
]
TURN = "Waiting for your turn; pictures are drawn one at a time, in the order they were asked for …"
# In the browser, since the queue says nothing before a turn comes.
ASKED = """() => {
    document.querySelector('#shield-status').scrollIntoView({block: 'nearest'});
    return [%s, {__type__: 'update', interactive: false}, {__type__: 'update', interactive: true}];
}"""
READY = "The first picture is on its way …"
BROKEN = "Something broke that shouldn't; the terminal that serves this page says what."
REMEMBERED, THUMBNAIL = 12, 128
FIELDS = ("prompt", "model", "policy", "seed", "steps", "guidance")


def shield_tab(page: Page, blocks: gr.Blocks) -> None:
    """Builds the tab inside the current Blocks."""
    found = examples(page.models.names[0], page.protected.concepts.concepts)
    first = first_request(page)
    prompt, go, cancel = prompt_part(first)
    outputs: list[Any] = [
        gr.HTML(str(render.status(READY)), elem_id="shield-status"),
        gr.HTML(shown.waiting(), elem_id="shield-pictures"),
    ]
    calibrate = gr.Button("Calibrate", visible=False, elem_id="calibrate")
    seed = seed_part(first)
    with gr.Accordion("Slide one picture over another", open=False, visible=False, elem_id="slide") as over:
        slider = gr.ImageSlider(show_label=True, interactive=False, buttons=[], max_height=420)
    inputs = [prompt, *_sampling(page, blocks, found, first, prompt, seed)]
    drawn, history = gr.State([]), _history()
    details = gr.HTML(elem_id="shield-details")
    outputs += [over, slider, details, calibrate, drawn, history]
    _wired(page, blocks, [*inputs, drawn], outputs, go, cancel)
    picked = history.select(_again, drawn, inputs, queue=False, **HIDDEN)
    picked.then(None, None, None, js=PRESS, **HIDDEN)
    _api(page)


def first_request(page: Page) -> DrawingRequest:
    """What the page begins with."""
    model = page.models.names[0]
    steps, scale = _usual(model)
    prompt = examples(model, page.protected.concepts.concepts)[0].prompt
    return DrawingRequest(prompt, model, steps=steps, guidance_scale=float(scale))


def _sampling(
    page: Page, blocks: gr.Blocks, found: list[Example], first: DrawingRequest, prompt: gr.Textbox, seed: gr.Number
) -> list[Any]:
    """Examples, what the model knows, and the fields below them: model, policy, seed, steps, guidance."""
    examples_part(found, prompt)
    known_part(first.model, prompt)
    with gr.Accordion("Policy, model and sampling", open=False):
        policy = gr.Radio(POLICIES, value=first.policy, label="Policy")
        model = gr.Dropdown(list(page.models.names), value=first.model, label="Model", filterable=False)
        steps = gr.Slider(1, 100, value=first.steps, step=1, label="Denoising steps")
        guidance = gr.Slider(0, 20, value=first.guidance_scale, step=0.5, label="Guidance scale")
    state = gr.HTML(_state(page, first.model), elem_id="model-state")
    gr.on([blocks.load, model.change], _loading(page), model, state, concurrency_limit=None, **HIDDEN)
    return [model, policy, seed, steps, guidance]


def _history() -> gr.Gallery:
    return gr.Gallery(
        label="Drawn before",
        columns=REMEMBERED,
        fit_columns=False,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_id="history",
    )


def _wired(
    page: Page, blocks: gr.Blocks, inputs: list[Any], outputs: list[Any], go: gr.Button, cancel: gr.Button
) -> None:
    """What Draw and Cancel do, and what is drawn on load."""
    prompt, drawn, buttons, calibrate = inputs[0], inputs[-1], [go, cancel], outputs[-3]
    model: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    loaded = blocks.load(_first(page), drawn, [*inputs[:-1], *outputs], **model, **HIDDEN)
    asked = [go.click, prompt.submit]
    gr.on(
        [*asked, calibrate.click],
        None,
        None,
        [outputs[0], *buttons],
        js=ASKED % json.dumps(str(render.status(TURN))),
        cancels=[loaded],
        **HIDDEN,
    )
    how: dict[str, Any] = {"trigger_mode": "once", **model, **HIDDEN}
    drawing = gr.on(asked, _generate(page), inputs, outputs, **how)
    calibrating = calibrate.click(_generate(page, calibrates=True), inputs, outputs, **how)
    for work in (drawing, calibrating):
        # Comes after the last frame, also after one that was on its way when the drawing was canceled.
        work.then(_ended, outputs[0], [*outputs[:5], *buttons], queue=False, **HIDDEN)
    cancel.click(_cancel(page), None, None, cancels=[drawing, calibrating], queue=False, **HIDDEN)


def _usual(model: str) -> tuple[int, float]:
    """A shipped model's own sampling; of others it is known only once they are loaded."""
    from probes.testbed.checkpoint import Checkpoint

    checkpoint = Checkpoint.of(model)
    return checkpoint.sampling() if checkpoint.truth is not None else (25, 5.0)


def _state(page: Page, model: str) -> str:
    return str(render.note(page.models.state(model)))


def _loading(page: Page) -> Any:
    def show(model: str) -> Iterator[str]:
        try:
            page.models.warm(model)
        except ShieldError as error:
            yield str(render.note(str(error)))
            return
        while not page.models.settled(model):
            yield _state(page, model)
            time.sleep(0.5)
        yield _state(page, model)

    return show


def _generate(page: Page, calibrates: bool = False) -> Any:
    def generate(
        prompt: str,
        model: str,
        policy: str,
        seed: float,
        steps: float,
        guidance: float,
        drawn: list[Any],
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        def asked() -> DrawingRequest:
            return asked_for(page, prompt, model, policy, seed, steps, guidance)

        yield from _drawing(page, asked, drawn, request, calibrates)

    return generate


def _first(page: Page) -> Any:
    """What a link asks for, else what the page begins with; the fields say which."""

    def first(drawn: list[Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        fields: tuple[Any, ...] = (gr.skip(),) * len(FIELDS)
        asked = first_request(page)
        try:
            asked = linked(page, asked, dict(request.query_params))
            if asked != first_request(page):
                fields = _fields(asked)
        except ShieldError as error:
            yield *fields, str(render.status(str(error), kind="bad")), *(gr.skip(),) * 7
            return
        for told in _drawing(page, lambda: asked, drawn, request):
            yield *fields, *told
            fields = (gr.skip(),) * len(FIELDS)

    return first


def linked(page: Page, first: DrawingRequest, query: Mapping[str, str]) -> DrawingRequest:
    """The request with what a link says in place of its fields. Raises BadRequestError."""
    said = {name: query[name] for name in FIELDS if query.get(name)}
    if "guidance" in said:
        said["guidance_scale"] = said.pop("guidance")
    asked = replace(first, **said)  # type: ignore[arg-type]
    page.models.checked(asked.model)
    return asked.checked()


def _fields(asked: DrawingRequest) -> tuple[Any, ...]:
    return asked.prompt, asked.model, asked.policy, asked.seed, asked.steps, asked.guidance_scale


def _again(drawn: list[Any], event: gr.SelectData) -> tuple[Any, ...]:
    return _fields(drawn[event.index][1])


def _drawing(
    page: Page, asked: Any, drawn: list[Any], request: gr.Request, calibrates: bool = False
) -> Iterator[tuple[Any, ...]]:
    """Every frame and then the finished picture; `asked()` may refuse what was asked for."""
    job = None
    same = (gr.skip(),) * 2  # the slider and its accordion
    kept = (gr.skip(),) * 3  # the button that calibrates, the history and its strip
    yield (
        str(render.status("Waiting for the model …")),
        shown.waiting(),
        gr.Accordion(visible=False),
        gr.skip(),
        "",
        *kept,
    )
    try:
        checked = asked()
        job = page.begun(request.session_hash, BackgroundJob(lambda tell: _work(page, checked, tell, calibrates)))
        for told in job:
            yield *shown.frame(told), *same, gr.skip(), *kept
        if job.result is not None:
            yield *_finished(page, job.result), *_remembered(drawn, job.result)
    except ShieldError as error:
        yield str(render.status(str(error), kind="bad")), gr.skip(), *same, gr.skip(), *kept
    except Exception:
        traceback.print_exc()
        yield str(render.status(BROKEN, kind="bad")), gr.skip(), *same, gr.skip(), *kept
    finally:
        if job is not None:
            job.stop()


def _work(page: Page, asked: DrawingRequest, tell: Any, calibrates: bool) -> Drawing:
    if calibrates:
        page.calibrate(asked, tell)
    return page.draw(asked, tell)


def _finished(page: Page, drawing: Drawing) -> tuple[Any, ...]:
    over = shown.slide(page, drawing)
    slider = gr.skip() if over is None else gr.ImageSlider(value=over[1], label=over[0])
    return (
        shown.verdict_line(drawing),
        shown.row(page, drawing),
        gr.Accordion(visible=over is not None),
        slider,
        shown.details(page, drawing),
        gr.Button(f"Calibrate {drawing.asked.model} ({drawing.calibration})", visible=not drawing.calibrated),
    )


def _remembered(drawn: list[Any], drawing: Drawing) -> tuple[list[Any], Any]:
    """This visitor's last drawings, the newest first: (picture, request) pairs, and the strip that shows them."""
    small = drawing.shielded.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    others = [(picture, asked) for picture, asked in drawn if asked != drawing.asked]
    now = [(small, drawing.asked), *others][:REMEMBERED]
    strip = [(picture, f"{asked.prompt[:40]}, seed {asked.seed}") for picture, asked in now]
    return now, gr.Gallery(strip, visible=len(now) > 1)


def _ended(status: str) -> tuple[Any, ...]:
    """What is left of a drawing that was canceled, which has no verdict; and the buttons as they were."""
    left: tuple[Any, ...] = (gr.skip(),) * 5
    if render.unfinished(status):
        left = (str(render.status("Canceled.")), shown.waiting(), gr.Accordion(visible=False), gr.skip(), "")
    return *left, gr.Button(interactive=True), gr.Button(interactive=False)


def asked_for(
    page: Page, prompt: str, model: str, policy: str, seed: float, steps: float, guidance: float
) -> DrawingRequest:
    """What the fields say, checked. Raises BadRequestError."""
    page.models.checked(model)
    return DrawingRequest(prompt, model, policy, seed, steps, guidance).checked()  # type: ignore[arg-type]


def _cancel(page: Page) -> Any:
    def cancel(request: gr.Request) -> None:
        page.stop(request.session_hash)

    return cancel


def _api(page: Page) -> None:
    """The same for programs: /shield takes the fields and returns the picture that was handed out and the verdict."""

    def shield(
        prompt: str, model: str, policy: str, seed: float, steps: float, guidance_scale: float
    ) -> tuple[Image.Image, dict[str, Any]]:
        try:
            asked = asked_for(page, prompt, model, policy, seed, steps, guidance_scale)
            drawing = page.draw(asked, lambda told: None)
        except ShieldError as error:
            raise gr.Error(str(error), print_exception=False) from None
        about = {**drawing.about(), "sentence": shown.sentence(drawing)}
        return drawing.shielded, about

    steps, scale = _usual(page.models.names[0])
    with gr.Column(visible=False):
        fields = [
            gr.Textbox(label="prompt"),
            gr.Textbox(page.models.names[0], label="model"),
            gr.Textbox("balanced", label="policy"),
            gr.Number(0, label="seed", precision=0),
            gr.Number(steps, label="steps", precision=0),
            gr.Number(scale, label="guidance_scale"),
        ]
        results = [gr.Image(label="picture", type="pil", format="png"), gr.JSON(label="verdict")]
        gr.Button("shield").click(
            shield, fields, results, api_name="shield", concurrency_limit=1, concurrency_id="model"
        )
