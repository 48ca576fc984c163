"""The Shield tab: one prompt behind the shield and without it, step by step."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from shield.errors import ShieldError
from shield.protected.pictures import open_image
from ui import render, wording
from ui.examples import examples
from ui.jobs import Job

if TYPE_CHECKING:
    from shield.types import Nearest
    from ui.drawing import Drawing, Frame
    from ui.page import Page

POLICIES = [
    ("balanced: mitigate what is flagged", "balanced"),
    ("strict: also block what can't be judged", "strict"),
    ("monitor: only watch", "monitor"),
]
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
TURN = "Waiting for your turn; pictures are drawn one at a time, in the order they were asked for …"
# In the browser, since the queue says nothing before a turn comes. On a phone the pictures are below everything else.
ASKED = """() => {
    document.querySelector('#shield-status').scrollIntoView({block: 'nearest'});
    return [%s, {__type__: 'update', interactive: false}, {__type__: 'update', interactive: true}];
}"""
READY = "Type a prompt, or take one of the examples, and draw it."
BROKEN = "Something broke that shouldn't; the terminal that serves this page says what."
LATER = "drawn after it, from the same noise"


def shield_tab(page: Page, blocks: gr.Blocks) -> None:
    """Builds the tab inside the current Blocks."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            inputs, go, cancel = _inputs(page, blocks)
        with gr.Column(scale=3, min_width=300):
            outputs = [
                gr.HTML(str(render.status(READY)), elem_id="shield-status"),
                gr.HTML(_waiting(), elem_id="shield-pictures"),
                gr.HTML(elem_id="shield-details"),
            ]
    buttons = [go, cancel]
    gr.on(
        [go.click, inputs[0].submit],
        None,
        None,
        [outputs[0], *buttons],
        js=ASKED % json.dumps(str(render.status(TURN))),
        **HIDDEN,
    )
    drawing = gr.on(
        [go.click, inputs[0].submit],
        _generate(page),
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id="model",
        trigger_mode="once",
        **HIDDEN,
    )
    # Comes after the last frame, also after one that was on its way when the drawing was canceled.
    drawing.then(_ended, outputs[0], [*outputs, *buttons], queue=False, **HIDDEN)
    cancel.click(_cancel(page), None, None, cancels=[drawing], queue=False, **HIDDEN)
    _api(page)


def _inputs(page: Page, blocks: gr.Blocks) -> tuple[list[Any], gr.Button, gr.Button]:
    usual_steps, usual_scale = _usual(page.models.names[0])
    found = examples(page.models.names[0], page.protected.concepts.concepts)
    prompt = gr.Textbox(found[0][1], label="Prompt", lines=2, max_lines=6, max_length=1000, elem_id="prompt")
    with gr.Row(elem_classes="ds-examples"):
        for title, text in found:
            gr.Button(title, size="sm").click(None, None, prompt, js=f"() => {json.dumps(text)}", **HIDDEN)
    with gr.Row():
        go = gr.Button("Draw", variant="primary", elem_id="draw")
        cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
    state = gr.HTML(_state(page, page.models.names[0]), elem_id="model-state")
    policy = gr.Radio(POLICIES, value="balanced", label="Policy")
    with gr.Accordion("Model and sampling", open=False):
        model = gr.Dropdown(list(page.models.names), value=page.models.names[0], label="Model", filterable=False)
        seed = gr.Number(0, label="Seed", info="The same seed gives the same picture.", precision=0, minimum=0)
        steps = gr.Slider(1, 100, value=usual_steps, step=1, label="Denoising steps")
        guidance = gr.Slider(0, 20, value=usual_scale, step=0.5, label="Guidance scale")
    gr.on([blocks.load, model.change], _loading(page), model, state, concurrency_limit=None, **HIDDEN)
    return [prompt, model, policy, seed, steps, guidance], go, cancel


def _usual(model: str) -> tuple[int, float]:
    """A shipped model's own sampling; of others it is known only once they are loaded."""
    from probes.testbed.checkpoint import Checkpoint

    checkpoint = Checkpoint.of(model)
    return checkpoint.sampling() if checkpoint.truth is not None else (25, 5.0)


def _state(page: Page, model: str) -> str:
    return str(render.note(page.models.state(model)))


def _loading(page: Page) -> Any:
    import time

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


def _waiting() -> str:
    return str(
        render.pictures([("Behind the shield", None, "no picture yet", ""), ("Without the shield", None, LATER, "")])
    )


def _generate(page: Page) -> Any:
    def generate(
        prompt: str, model: str, policy: str, seed: float, steps: float, guidance: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        job = None
        yield str(render.status("Waiting for the model …")), _waiting(), ""
        try:
            asked = asked_for(page, prompt, model, policy, seed, steps, guidance)
            job = page.begun(request.session_hash, Job(lambda tell: page.draw(asked, tell)))
            for told in job:
                yield *_frame(told), gr.skip()
            if job.result is not None:
                yield _shown(page, job.result)
        except ShieldError as error:
            yield str(render.status(str(error), kind="bad")), gr.skip(), gr.skip()
        except Exception:
            traceback.print_exc()
            yield str(render.status(BROKEN, kind="bad")), gr.skip(), gr.skip()
        finally:
            if job is not None:
                job.stop()

    return generate


def _ended(status: str) -> tuple[Any, ...]:
    """What is left of a drawing that was canceled, which has no verdict; and the buttons as they were."""
    canceled = (str(render.status("Canceled.")), _waiting(), "") if render.unfinished(status) else (gr.skip(),) * 3
    return *canceled, gr.Button(interactive=True), gr.Button(interactive=False)


def asked_for(page: Page, prompt: str, model: str, policy: str, seed: float, steps: float, guidance: float) -> Any:
    """What the fields say, checked. Raises BadRequestError."""
    page.models.checked(model)
    from ui.drawing import DrawingRequest

    return DrawingRequest(prompt, model, policy, seed, steps, guidance).checked()  # type: ignore[arg-type]


def _frame(told: Frame | str) -> tuple[str, str]:
    """One step: how far it is, and what the latents look like."""
    from ui.drawing import SHIELDED

    if isinstance(told, str):
        return str(render.status(told)), _waiting()
    score = "" if told.score is None else f", score {told.score:.2f}"
    line = f"Drawing {told.side}: step {told.step} of {told.steps}{score}"
    preview = None if told.preview is None else render.data_url(told.preview, "JPEG")
    first = told.side == SHIELDED
    now = "preview of the predicted picture" if preview else "no preview for this model"
    shielded = (preview, now) if first else (_address(told.shielded), "the picture behind the shield")
    unshielded = (None, LATER) if first else (preview, now)
    veil = "blurred" if told.flagged else ""
    figures = [("Behind the shield", *shielded, ""), ("Without the shield", *unshielded, veil)]
    return str(render.status(line, told.step, told.steps)), str(render.pictures(figures))


def _address(picture: Image.Image | None) -> str | None:
    return None if picture is None else render.data_url(picture)


def _shown(page: Page, drawing: Drawing) -> tuple[str, str, str]:
    """The finished pictures, the verdict in a sentence, and everything behind it."""
    verdict = drawing.verdict
    kind = "flagged" if verdict.flagged and verdict.status == "passed" else verdict.status
    line = render.status(wording.sentence(verdict), kind=kind)
    veil = "box" if verdict.flagged else ""
    equal = " (the same, to the bit)" if drawing.same else ""
    figures = [
        (
            "Behind the shield",
            _address(drawing.shielded),
            f"behind the shield: {verdict.status}",
            veil if equal else "",
            render.outline(verdict.nearest, drawing.shielded.size),
        ),
        (
            "Without the shield" + equal,
            _address(drawing.unshielded),
            "what the bare model draws",
            veil,
            render.outline(drawing.recalled, drawing.unshielded.size),
        ),
    ]
    return str(line), str(render.pictures(figures)), str(_details(page, drawing))


def _details(page: Page, drawing: Drawing) -> Any:
    from ui.plots import in_words, score_plot

    verdict, prompt = drawing.verdict, drawing.asked.prompt
    threshold = next((s.threshold for s in verdict.scores if s.detector == drawing.detector), None)
    plot = render.EMPTY
    if any(score is not None for score in drawing.curve):
        plot = render.titled(
            "Score at every denoising step",
            render.plot(
                score_plot(drawing.curve, drawing.detector, threshold),
                in_words(drawing.curve, drawing.detector, threshold),
            ),
        )
    found = page.protected.concepts.found(prompt) if verdict.concepts else []
    sides = [("Behind the shield", verdict.nearest), ("Without the shield", drawing.recalled)]
    near = [(side, work, _work_address(page, work)) for side, work in sides[: 1 if drawing.same else 2]]
    name = f"diffshield-{drawing.asked.model}-{drawing.asked.seed}".replace("/", "-")
    return render.EMPTY.join(
        [
            render.heat(prompt, drawing.words),
            render.titled("Protected in the prompt", render.mentions(prompt, found)) if found else render.EMPTY,
            render.rewritten(prompt, verdict.rewritten_prompt),
            render.nearest(near),
            plot,
            render.scores(verdict),
            render.downloads(drawing.shielded, drawing.about(), name),
        ]
    )


def _work_address(page: Page, work: Nearest | None) -> str | None:
    file = None if work is None else page.protected.picture(work.work)
    return None if file is None else render.data_url(open_image(file))


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
        about = {**drawing.about(), "sentence": wording.sentence(drawing.verdict)}
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
