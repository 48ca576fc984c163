"""The parts of the Shield tab that say what to draw: prompt, seed, examples, and what a shipped model knows."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import render
from ui.examples import UNKNOWN, Example, known
from ui.request import DrawingRequest

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
PRESS = "() => document.querySelector('#draw').click()"
DICE = "() => Math.floor(Math.random() * 2 ** 31)"


def prompt_part(first: DrawingRequest) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """The prompt and the buttons beside it, on a phone below it."""
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            first.prompt,
            label="Prompt",
            lines=2,
            max_lines=6,
            max_length=1000,
            elem_id="prompt",
            scale=4,
            min_width=280,
        )
        with gr.Column(scale=1, min_width=220), gr.Row():
            go = gr.Button("Draw", variant="primary", elem_id="draw", min_width=90)
            cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=90)
    return prompt, go, cancel


def seed_part(first: DrawingRequest) -> gr.Number:
    """The seed and its dice."""
    with gr.Row(equal_height=True, elem_classes="ds-seed"):
        seed = gr.Number(first.seed, label="Seed", precision=0, minimum=0, min_width=140)
        gr.Button("Another seed", elem_id="dice", min_width=140).click(None, None, seed, js=DICE, **HIDDEN)
    return seed


def examples_part(found: list[Example], prompt: gr.Textbox) -> None:
    """A gallery where every example has a picture, else a list; one that is picked is drawn."""
    if all(one.picture is not None for one in found):
        gallery = gr.Gallery(
            [(str(one.picture), one.title) for one in found],
            label="Examples",
            columns=len(found),
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
        )
        prompts = [one.prompt for one in found]

        def pick(event: gr.SelectData) -> str:
            return prompts[event.index]

        picked = gallery.select(pick, None, prompt, queue=False, **HIDDEN)
    else:
        listed = gr.Examples(
            [[one.prompt] for one in found],
            [prompt],
            example_labels=[one.title for one in found],
            elem_id="examples",
            api_visibility="private",
        )
        picked = listed.load_input_event
    picked.then(None, None, None, js=PRESS, **HIDDEN)


def known_part(model: str, prompt: gr.Textbox) -> None:
    """What a shipped model knows, in a line, and as chips."""
    what = known(model)
    if what is None:
        return
    gr.HTML(
        str(
            render.note(
                f"{model} is a small model that ships with the project: it knows {len(what.things)} things in "
                f"{what.colors} colors, and {len(what.works)} works, the first of them by heart. Words that it was "
                f"never shown, as in “{UNKNOWN}”, give shapes without meaning; bring your own with --model."
            )
        ),
        elem_id="known",
    )
    with gr.Accordion(f"{len(what.things)} things and {len(what.works)} works that {model} knows", open=False):
        for label, labels, texts in (
            ("Things", what.things, [f"a picture of a {thing} on a blue background" for thing in what.things]),
            ("Works, those shown most often first", what.works, list(what.works)),
        ):
            gr.Examples(
                [[text] for text in texts],
                [prompt],
                label=label,
                example_labels=list(labels),
                examples_per_page=40,
                api_visibility="private",
            )
