"""Export and import of what is protected, as one .zip file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import gradio as gr

from shield.errors import ShieldError
from ui import bundle, render

if TYPE_CHECKING:
    from ui.page import Page

# Reads and writes many pictures: one after the other, as uploads.
QUEUED: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": 1,
    "concurrency_id": "pictures",
}
TELLS = (
    "One .zip file with all concepts and pictures, to keep or to hand on. Importing one adds what isn't there yet; a "
    "concept of the same name is replaced."
)


def bundle_part(page: Page, shown: Callable[[], Sequence[Any]], lists: Sequence[Any]) -> None:
    """Builds the part; `lists` of the tab show again what is `shown` after an import."""
    gr.HTML(str(render.note(TELLS)))
    with gr.Row(equal_height=True):
        export = gr.Button("Export", elem_id="export", min_width=140)
        add = gr.UploadButton("Import a .zip", file_types=[".zip"], elem_id="import", min_width=140)
    said = gr.HTML(elem_id="bundle-said")
    ready = gr.DownloadButton("Download protected.zip", visible=False, variant="primary", elem_id="exported")

    def exported() -> tuple[str, Any]:
        target = Path(mkdtemp(dir=page.scratch.name)) / "protected.zip"
        try:
            file = bundle.export(page.protected, target)
        except OSError as error:
            return str(render.status(f"It can't be written: {error}", kind="bad")), gr.DownloadButton(visible=False)
        size = f"{file.stat().st_size / 2**20:.1f} MB"
        concepts, works = len(page.protected.concepts.concepts), len(page.protected.names())
        told = render.status(f"{concepts} concepts and {works} works, {size}.", kind="passed")
        return str(told), gr.DownloadButton(value=str(file), visible=True)

    def imported(file: str) -> list[Any]:
        try:
            concepts, pictures = bundle.merge(page.protected, Path(file))
        except (ShieldError, OSError) as error:
            return [str(render.status(str(error), kind="bad")), *[gr.skip()] * len(lists)]
        told = f"Imported: {concepts} concepts and {pictures} pictures are new or changed."
        return [str(render.status(told, kind="passed")), *shown()]

    export.click(exported, None, [said, ready], **QUEUED)
    add.upload(imported, add, [said, *lists], **QUEUED)
