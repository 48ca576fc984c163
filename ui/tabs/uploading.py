"""The button that uploads what a run is to be about, what was chosen in words, and a way to forget it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from ui import render
from ui.tabs.asking import HIDDEN

NOTHING = "Nothing chosen."


def upload_part(label: str, kinds: Sequence[str], name: str, multiple: bool = True) -> gr.UploadButton:
    """The button, whose value is what was chosen: paths, or one path unless it takes `multiple`."""
    with gr.Row(equal_height=True):
        button = gr.UploadButton(
            label, file_count="multiple" if multiple else "single", file_types=list(kinds), elem_id=name, min_width=160
        )
        forget = gr.Button("Forget it", visible=False, elem_id=f"{name}-forget", min_width=100)
    said = gr.HTML(str(render.note(NOTHING)), elem_id=f"{name}-said")
    button.upload(_chosen, button, [said, forget], queue=False, **HIDDEN)
    forget.click(
        lambda: (None, str(render.note(NOTHING)), gr.Button(visible=False)),
        None,
        [button, said, forget],
        queue=False,
        **HIDDEN,
    )
    return button


def _chosen(files: Sequence[str] | str | None) -> tuple[str, gr.Button]:
    """The names of what was chosen."""
    names = [Path(file).name for file in ([files] if isinstance(files, str) else files or ())]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return str(render.note(f"Chosen: {', '.join(names[:6])}{more}.")), gr.Button(visible=bool(names))
