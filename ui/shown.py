"""One drawing as the Shield tab shows it: while it is being drawn, and when it is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from markupsafe import Markup
from PIL import Image

from shield.protected.pictures import open_image
from ui import render, wording
from ui.examples import unknown_words

if TYPE_CHECKING:
    from shield.types import Nearest
    from ui.calibrating import Calibrating
    from ui.drawing import Drawing, Frame
    from ui.page import Page
    from ui.request import DrawingRequest

ORIGINAL, BARE, BEHIND = "Original", "Without the shield", "Behind the shield"
LATER = "drawn after it, from the same noise"
UNKNOWN = "no protected work is like it"


def waiting() -> str:
    """The pictures' places before there are any."""
    figures = [(ORIGINAL, "a protected work, if one is copied"), (BARE, LATER), (BEHIND, "no picture yet")]
    return str(render.pictures([(title, None, words, "") for title, words in figures]))


def frame(told: Frame | Calibrating | str) -> tuple[str, str]:
    """One step: how far it is, and what the latents look like."""
    from ui.calibrating import Calibrating
    from ui.drawing import SHIELDED

    if isinstance(told, str):
        return str(render.status(told)), waiting()
    if isinstance(told, Calibrating):
        line = f"Calibrating on benign prompts: {told.done} of about {told.total} …"
        return str(render.status(line, told.done, told.total, counted="Benign prompts")), waiting()
    score = "" if told.score is None else f", score {told.score:.2f}"
    line = f"Drawing {told.side}: step {told.step} of {told.steps}{score}"
    preview = None if told.preview is None else render.data_url(told.preview, "JPEG")
    first = told.side == SHIELDED
    now = "preview of the predicted picture" if preview else "no preview for this model"
    shielded = (preview, now) if first else (_address(told.shielded), "the picture behind the shield")
    unshielded = (None, LATER) if first else (preview, now)
    veil = "blurred" if told.flagged else ""
    figures = [(ORIGINAL, None, "found at the end", ""), (BARE, *unshielded, veil), (BEHIND, *shielded, "")]
    return str(render.status(line, told.step, told.steps)), str(render.pictures(figures))


def sentence(drawing: Drawing) -> str:
    """What was decided and why, and what wasn't judged."""
    verdict = drawing.verdict
    return wording.sentence(verdict) if drawing.calibrated else wording.uncalibrated(verdict, drawing.asked.model)


def verdict_line(drawing: Drawing) -> str:
    """The verdict in a sentence; below it the words that a shipped model was never shown."""
    verdict = drawing.verdict
    watched = (verdict.flagged or not drawing.calibrated) and verdict.status == "passed"
    kind, model = "flagged" if watched else verdict.status, drawing.asked.model
    line = render.status(sentence(drawing), kind=kind)
    words = unknown_words(model, drawing.asked.prompt)
    return str(line + (render.note(wording.never_shown(model, words)) if words else render.EMPTY))


def veiled(drawing: Drawing) -> bool:
    """Whether what was flagged stays behind a veil: not where the original stands beside it."""
    return drawing.verdict.flagged and not _copies(drawing)


def row(page: Page, drawing: Drawing) -> str:
    """The original, without the shield and behind it, side by side."""
    verdict, recalled = drawing.verdict, drawing.recalled
    veil = "box" if veiled(drawing) else ""
    equal = " (the same, to the bit)" if drawing.same else ""
    original: render.Figure = (ORIGINAL, None, UNKNOWN, "")
    if recalled is not None and recalled.closeness != "none":
        original = (ORIGINAL, _work_address(page, recalled), f"the protected work {recalled.work}", "")
    figures: list[render.Figure] = [
        original,
        (
            BARE + equal,
            _address(drawing.unshielded),
            "what the bare model draws",
            veil,
            render.outline(recalled, drawing.unshielded.size),
        ),
        (
            BEHIND,
            _address(drawing.shielded),
            f"behind the shield: {verdict.status}",
            veil if equal else "",
            render.outline(verdict.nearest, drawing.shielded.size),
        ),
    ]
    return str(render.pictures(figures))


def slide(page: Page, drawing: Drawing) -> tuple[str, tuple[Image.Image, Image.Image]] | None:
    """Two pictures to lay one over the other, and what they are; None for two equal ones and for what is veiled."""
    if _copies(drawing) and drawing.recalled is not None:
        file = page.protected.picture(drawing.recalled.work)
        if file is not None:
            size = drawing.unshielded.size
            return f"{ORIGINAL} | {BARE.lower()}", (open_image(file).resize(size), drawing.unshielded)
    if drawing.same or veiled(drawing):
        return None
    return f"{BARE} | {BEHIND.lower()}", (drawing.unshielded, drawing.shielded)


def details(page: Page, drawing: Drawing) -> str:
    """Everything behind the verdict."""
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
    sides = [(BEHIND, verdict.nearest), (BARE, drawing.recalled)]
    near = [(side, work, _work_address(page, work)) for side, work in sides[: 1 if drawing.same else 2]]
    name = f"diffshield-{drawing.asked.model}-{drawing.asked.seed}".replace("/", "-")
    parts: list[Markup] = [
        render.heat(prompt, drawing.words),
        render.titled("Protected in the prompt", render.mentions(prompt, found)) if found else render.EMPTY,
        render.rewritten(prompt, verdict.rewritten_prompt),
        render.nearest(near),
        plot,
        render.scores(verdict),
        render.downloads(drawing.shielded, drawing.about(), name, link_to(drawing.asked)),
    ]
    return str(render.EMPTY.join(parts))


def link_to(asked: DrawingRequest) -> str:
    """The page's address with everything that decides this picture."""
    fields: dict[str, Any] = {
        "prompt": asked.prompt,
        "seed": asked.seed,
        "steps": asked.steps,
        "guidance": f"{asked.guidance_scale:g}",
        "policy": asked.policy,
        "model": asked.model,
    }
    return "?" + urlencode(fields)


def _copies(drawing: Drawing) -> bool:
    return drawing.recalled is not None and drawing.recalled.copied


def _address(picture: Image.Image | None) -> str | None:
    return None if picture is None else render.data_url(picture)


def _work_address(page: Page, work: Nearest | None) -> str | None:
    file = None if work is None else page.protected.picture(work.work)
    return None if file is None else render.data_url(open_image(file))
