"""A list's pages: one back, one on, and the list from its first page on when other entries are wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui import render

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
A_PAGE = 24


@dataclass(frozen=True)
class Paging:
    """The page that is shown, and the buttons to the others."""

    page: gr.State
    back: gr.Button
    on: gr.Button

    def shows(
        self, draw: Callable[[str, int], str], count: Callable[[str], int], wanted: gr.Textbox, listed: gr.HTML
    ) -> None:
        """Wires them: `draw` makes a page of what is `wanted`, of which there are `count`."""

        def step(by: int) -> Callable[[str, int], tuple[int, str]]:
            def stepped(text: str, page: int) -> tuple[int, str]:
                page = render.page_of(page + by, count(text), A_PAGE)
                return page, draw(text, page)

            return stepped

        for button, by in ((self.back, -1), (self.on, 1)):
            button.click(step(by), [wanted, self.page], [self.page, listed], **HIDDEN)
        first = (lambda text: (1, draw(text, 1)), wanted, [self.page, listed])
        wanted.change(*first, trigger_mode="always_last", **HIDDEN)


def paging_part(what: str) -> Paging:
    """The buttons below a list."""
    with gr.Row():
        back = gr.Button("Previous page", size="sm", elem_id=f"{what}-back", min_width=120)
        on = gr.Button("Next page", size="sm", elem_id=f"{what}-on", min_width=120)
    return Paging(gr.State(1), back, on)
