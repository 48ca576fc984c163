"""The Protected tab: what the shield looks for. Changes are saved at once and hold for the next picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from shield.errors import ShieldError
from shield.protected.concepts import Concept
from shield.protected.pictures import UNREADABLE, open_image
from ui import render
from ui.protected import FORMATS, KINDS, LARGEST, LONGEST_NAME, MOST_TOGETHER, Protected
from ui.tabs.bundle import bundle_part
from ui.tabs.paging import A_PAGE, paging_part
from ui.uploads import SUFFIXES, pictures_of

if TYPE_CHECKING:
    from ui.page import Page

HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
# Decodes pictures, which takes memory: one upload after the other.
QUEUED: dict[str, Any] = {**HIDDEN, "queue": True, "concurrency_limit": 1, "concurrency_id": "pictures"}
NEW = "(a new one)"
FORM = 7  # outputs: whose form it is, and its six fields
THUMBNAIL = 160


def protected_tab(page: Page, blocks: gr.Blocks) -> None:
    """Builds the tab inside the current Blocks; what is saved by then is there on every load."""
    store = page.protected
    with gr.Tabs():
        with gr.Tab("Concepts", id="concepts"):
            concepts = _concepts(store)
        with gr.Tab("Pictures", id="pictures"):
            pictures = _pictures(store)
        with gr.Tab("Export and import", id="bundle"):
            bundle_part(page, lambda: shown(store), [*concepts, *pictures])

    def saved() -> list[Any]:
        return shown(store)

    blocks.load(saved, None, [*concepts, *pictures], **HIDDEN)


def shown(store: Protected) -> list[Any]:
    """Everything that the lists of this tab show, from the first page on."""
    names, works = gr.Dropdown(_names(store), value=NEW), gr.Dropdown(store.names(), value=None)
    return [_table(store, ""), names, _grid(store, ""), works]


def _concepts(store: Protected) -> list[Any]:
    """Returns the list of concepts and the choice of one."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            with gr.Row(elem_classes="ds-end"):
                trial = gr.Textbox(
                    label="Try a prompt", placeholder="What would be found in it?", max_length=1000, scale=5
                )
                attempt = gr.Button("Try", elem_id="try", scale=1, min_width=90)
            found = gr.HTML(elem_id="trial")
            wanted = gr.Textbox(label="Find a concept", placeholder="name, alias or description", max_length=100)
            listed = gr.HTML(_table(store, ""), elem_id="concepts")
            place = paging_part("concepts")
        with gr.Column(scale=2, min_width=300):
            gr.HTML("<h2>Add or change a concept</h2>")
            chosen = gr.Dropdown(_names(store), value=NEW, label="Concept to change")
            filled = gr.State(NEW)
            fields = _fields()
            with gr.Row():
                save = gr.Button("Save", variant="primary", elem_id="save-concept")
                remove = gr.Button("Remove", elem_id="remove-concept")
            said = gr.HTML(elem_id="concept-said")
    gr.on([attempt.click, trial.submit, trial.blur], lambda text: _tried(store, text), trial, found, **HIDDEN)
    place.shows(lambda text, page: _table(store, text, page), lambda text: _count(store, text), wanted, listed)
    form = [filled, *fields]
    chosen.input(lambda name, last: _chosen(store, name, last), [chosen, filled], form, **HIDDEN)
    outputs = [said, listed, chosen, *form]
    save.click(_saver(store), [chosen, wanted, *fields], outputs, **HIDDEN)
    remove.click(_remover(store), [chosen, wanted], outputs, **HIDDEN)
    return [listed, chosen]


def _tried(store: Protected, prompt: str) -> str:
    return str(render.mentions(prompt, store.concepts.found(prompt))) if prompt else ""


def _fields() -> list[Any]:
    lines = "one on each line"
    return [
        gr.Textbox(label="Name", max_length=LONGEST_NAME),
        gr.Dropdown(list(KINDS), value=KINDS[0], label="Kind", filterable=False),
        gr.Textbox(label="Also called", info=lines, lines=2),
        gr.Textbox(label="Described as", info=lines, lines=2),
        gr.Textbox(label="Said instead in a rewritten prompt", max_length=LONGEST_NAME),
        gr.Textbox(label="Spellings near it that mean something else", info=lines, lines=1),
    ]


def _names(store: Protected) -> list[str]:
    return [NEW, *sorted(c.name for c in store.concepts.concepts)]


def _table(store: Protected, wanted: str, page: int = 1) -> str:
    return str(render.concepts_table(store.concepts.concepts, wanted or "", page, A_PAGE))


def _count(store: Protected, wanted: str) -> int:
    return len(render.fitting(store.concepts.concepts, wanted or ""))


def _chosen(store: Protected, name: str, last: str) -> list[Any]:
    """A list that only had the focus says "input" too: then what is being typed into the form stays."""
    return [gr.skip()] * FORM if name == last else _filled(store, name)


def _filled(store: Protected, name: str) -> list[Any]:
    """The form for a concept, and whose it is."""
    try:
        concept = Concept("") if name == NEW else store.concept(name)
    except ShieldError:
        concept = Concept("")
    return [
        name,
        concept.name,
        concept.kind,
        "\n".join(concept.aliases),
        "\n".join(concept.descriptions),
        concept.substitute,
        "\n".join(concept.allow),
    ]


def _saver(store: Protected) -> Callable[..., list[Any]]:
    def save(
        chosen: str, wanted: str, name: str, kind: str, aliases: str, descriptions: str, substitute: str, allow: str
    ) -> list[Any]:
        concept = Concept(name or "", kind, _lines(aliases), _lines(descriptions), substitute or "", _lines(allow))
        return _changed(
            store,
            wanted,
            f"Saved {concept.name}; it holds for the next picture.",
            lambda: store.save_concept(concept, None if chosen == NEW else chosen),
        )

    return save


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple((text or "").splitlines())


def _remover(store: Protected) -> Callable[..., list[Any]]:
    def remove(chosen: str, wanted: str) -> list[Any]:
        if chosen == NEW:
            return [_said("Choose the concept to remove.", bad=True), *[gr.skip()] * (2 + FORM)]
        return _changed(store, wanted, f"Removed {chosen}.", lambda: store.remove_concept(chosen))

    return remove


def _changed(store: Protected, wanted: str, sentence: str, change: Callable[[], None]) -> list[Any]:
    """What a change said, and the list and the form after it; the form keeps what was typed if it was refused."""
    try:
        change()
    except (ShieldError, OSError) as error:
        return [_said(str(error), bad=True), *[gr.skip()] * (2 + FORM)]
    return [_said(sentence), _table(store, wanted), gr.Dropdown(_names(store), value=NEW), *_filled(store, NEW)]


def _said(sentence: str, bad: bool = False) -> str:
    return str(render.status(sentence, kind="bad" if bad else "passed"))


def _pictures(store: Protected) -> list[Any]:
    """Returns the pictures and the choice of a work."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            wanted = gr.Textbox(label="Find a work", placeholder="part of its name", max_length=100)
            shown = gr.HTML(_grid(store, ""), elem_id="gallery")
            place = paging_part("works")
        with gr.Column(scale=2, min_width=300):
            gr.HTML("<h2>Add pictures</h2>")
            work = gr.Textbox(
                label="Name of the work",
                info="Without one, each picture is a work named after its file.",
                max_length=LONGEST_NAME,
                elem_id="work-name",
            )
            gr.HTML(
                str(
                    render.note(
                        f"{', '.join(FORMATS)}, or a .zip of them, up to {LARGEST // 2**20} MB each and "
                        f"{MOST_TOGETHER // 10**6} million pixels together; they are added as soon as "
                        "they are chosen."
                    )
                )
            )
            files = gr.UploadButton(
                "Choose pictures to add",
                file_count="multiple",
                variant="primary",
                file_types=[*SUFFIXES, ".zip"],
                elem_id="upload",
            )
            folder = gr.UploadButton("Choose a folder", file_count="directory", elem_id="upload-folder")
            gr.HTML("<h2>Rename or remove</h2>")
            chosen = gr.Dropdown(store.names(), value=None, label="Work to change")
            name = gr.Textbox(label="New name", max_length=LONGEST_NAME)
            with gr.Row():
                rename = gr.Button("Rename")
                remove = gr.Button("Remove")
            said = gr.HTML(elem_id="gallery-said")
    outputs = [said, shown, chosen, work, name]
    place.shows(lambda text, page: _grid(store, text, page), lambda text: len(_fitting(store, text)), wanted, shown)
    files.upload(_adder(store), [work, files, wanted], outputs, **QUEUED)
    folder.upload(_adder(store, folder=True), [work, folder, wanted], outputs, **QUEUED)
    rename.click(_renamer(store), [chosen, name, wanted], outputs, **HIDDEN)
    remove.click(_dropper(store), [chosen, wanted], outputs, **HIDDEN)
    return [shown, chosen]


def _fitting(store: Protected, wanted: str) -> list[str]:
    return [name for name in store.names() if (wanted or "").casefold().strip() in name.casefold()]


def _grid(store: Protected, wanted: str, page: int = 1) -> str:
    fits = _fitting(store, wanted)
    start = (render.page_of(page, len(fits), A_PAGE) - 1) * A_PAGE
    counts = {name: sum(entry["work"] == name for entry in store.works) for name in fits[start : start + A_PAGE]}
    works = [(name, _thumbnail(store.picture(name)), count) for name, count in counts.items()]
    return str(render.gallery_grid(works, len(store.names()), len(fits), start))


def _thumbnail(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        small = open_image(file)
    except UNREADABLE:
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return render.data_url(small, "JPEG")


def _adder(store: Protected, folder: bool = False) -> Callable[..., list[Any]]:
    def add(work: str, files: list[str] | None, wanted: str) -> list[Any]:
        added = 0

        def change() -> None:
            nonlocal added
            with pictures_of([Path(file) for file in files or ()], folder=folder) as pictures:
                added = store.add_pictures(work, pictures) if (work or "").strip() else store.add_works(pictures)

        def said() -> str:
            what = "1 picture" if added == 1 else f"{added} pictures"
            to = f" to {work}" if (work or "").strip() else ", each named after its file"
            return f"Added {what}{to}; protected from the next picture on."

        return _changed_gallery(store, wanted, said, change)

    return add


def _renamer(store: Protected) -> Callable[..., list[Any]]:
    def rename(chosen: str | None, name: str, wanted: str) -> list[Any]:
        return _changed_gallery(store, wanted, f"Renamed to {name}.", lambda: store.rename_work(chosen or "", name))

    return rename


def _dropper(store: Protected) -> Callable[..., list[Any]]:
    def remove(chosen: str | None, wanted: str) -> list[Any]:
        return _changed_gallery(store, wanted, f"Removed {chosen}.", lambda: store.remove_work(chosen or ""))

    return remove


def _changed_gallery(
    store: Protected, wanted: str, sentence: str | Callable[[], str], change: Callable[[], Any]
) -> list[Any]:
    try:
        change()
    except (ShieldError, OSError) as error:
        return [_said(str(error), bad=True), *[gr.skip()] * 4]
    told = sentence if isinstance(sentence, str) else sentence()
    return [_said(told), _grid(store, wanted), gr.Dropdown(store.names(), value=None), "", ""]
