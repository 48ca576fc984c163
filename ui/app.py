"""The page: what its tabs share, its theme, and the server. The tabs are in modules of their own.

Everything slow runs in Gradio's queue, one picture at a time and in the order it was asked for, so that two visitors
take turns. torch, diffusers and matplotlib are imported when something needs them: the page is there before the model.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from shield.errors import BadRequestError, ShieldError, reason_of  # noqa: E402
from shield.model.loading import SHIPPED  # noqa: E402
from ui.folders import Folders  # noqa: E402
from ui.guard import Guard  # noqa: E402
from ui.models import Pipelines  # noqa: E402
from ui.page import Page  # noqa: E402
from ui.protected import LARGEST, Protected, pictures_in, testbed_seed  # noqa: E402
from ui.runner import Runner  # noqa: E402
from ui.tabs.audit import audit_tab  # noqa: E402
from ui.tabs.protected import protected_tab  # noqa: E402
from ui.tabs.scan import scan_tab  # noqa: E402
from ui.tabs.shield import first_request, shield_tab  # noqa: E402
from ui.visitors import limit_visitors  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# Gradio names a thumbnail by its number and not by the caption that it shows, which is then read twice.
NAMED_BY_CAPTIONS = """<script>
new MutationObserver(() => {
    for (const button of document.querySelectorAll("button.thumbnail-item[aria-label]")) {
        if (!button.querySelector(".caption-label")) continue;
        button.removeAttribute("aria-label");
        button.querySelectorAll("img").forEach((img) => { img.alt = ""; });
    }
}).observe(document, { childList: true, subtree: true });
</script>"""
SHARED = ".gradio.live"  # what Gradio's servers call a shared page
MOST_UPLOAD = 12 * LARGEST  # bytes of all pictures that are added at once
TITLE = "diffusion-shield"
HEAD = (
    '<div class="ds-head"><h1>diffusion-shield</h1><p>Type a prompt, see what the model recalls, why it was '
    "flagged, and what the shield did about it.</p></div>"
)


def page_of(
    model: str = "testbed",
    runs: Path = Path("runs"),
    protected: Path | None = None,
    device: str = "auto",
    concepts: Sequence[str] = (),
    gallery: Path | None = None,
    thresholds: Path | None = None,
) -> Page:
    """Everything behind a page.

    Args:
        model: What the page draws with.
        runs: Folder of the run folders.
        protected: Folder of what is protected; RUNS/protected by default.
        device: Where models run.
        concepts: Names and registries' files that a new `protected` begins with, instead of those that ship.
        gallery: Folder of pictures that it begins with.
        thresholds: Folder of thresholds; by default those that are stored, and what is missing is made.

    Raises:
        RegistryError, GalleryError, WeightsError: A folder can't be read.
        BadRequestError: `protected` holds something already, so it can't begin with anything.
    """
    from probes.testbed.checkpoint import Checkpoint
    from shield.protected.concepts import shipped_concepts
    from shield.protected.given import concepts_of
    from shield.runtime.arguments import as_thresholds

    folder = protected or runs / "protected"
    known = Checkpoint.of(model).truth is not None
    own, works = testbed_seed() if known else ([], [])
    _refuse_begun(folder, "concepts.toml" if concepts else "", "works.json" if gallery else "")
    named = concepts_of(concepts) if concepts else shipped_concepts()
    seed = [*(own if not concepts else ()), *named.concepts]
    works = works if gallery is None else pictures_in(gallery)
    names = [model, *(SHIPPED if known else ())]
    folders = Folders(runs)
    models = Pipelines(names, device)
    given = None if thresholds is None else as_thresholds(thresholds)
    runner = Runner(folders, device, models=models.names)
    return Page(models, Protected(folder, seed, works), folders, runner, given)


def _refuse_begun(folder: Path, *files: str) -> None:
    """Raises BadRequestError where a folder of what is protected has one of these files."""
    begun = [file for file in files if file and (folder / file).exists()]
    if begun:
        raise BadRequestError(
            f"{folder} holds what is protected already ({', '.join(begun)}), which the page changes; name a new folder "
            "with --protected to begin with other concepts or pictures."
        )


def build(page: Page) -> gr.Blocks:
    """The page's layout and wiring."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False, delete_cache=(3600, 3600)) as blocks:
        gr.HTML(HEAD)
        with gr.Tabs():
            with gr.Tab("Shield", id="shield"):
                shield_tab(page, blocks)
            with gr.Tab("Protected", id="protected"):
                protected_tab(page, blocks)
            with gr.Tab("Scan", id="scan") as tab:
                scan_tab(page, blocks, tab)
            with gr.Tab("Audit", id="audit") as tab:
                audit_tab(page, blocks, tab)
        blocks.unload(_left(page))
    blocks.queue(default_concurrency_limit=4, max_size=64, api_open=False)
    limit_visitors(blocks._queue)
    return blocks


def _left(page: Page) -> Callable[[gr.Request], None]:
    def left(request: gr.Request) -> None:
        page.stop(request.session_hash)

    return left


def launched(
    page: Page,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    hosts: Sequence[str] = (),
) -> gr.Blocks:
    """The page, being served until its `close`. `hosts`: further names that it answers to (see ui/guard.py).

    Raises BadRequestError for an address that can't be used.
    """
    blocks = build(page)
    names = [*hosts, *([SHARED] if share else ())]
    guard = Middleware(Guard, bound=host, hosts=names, most_upload=MOST_UPLOAD)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=LARGEST,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={"middleware": [guard]},
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            theme=theme(),
            head=NAMED_BY_CAPTIONS,
            css_paths=Path(__file__).with_name("page.css"),
        )
    except OSError as error:
        raise BadRequestError(f"The page can't be served on {host}, port {port or 'any'}: {reason_of(error)}") from None
    return blocks


def prepared(page: Page) -> threading.Thread:
    """Draws what the page begins with in the background, so that it is there when somebody opens it.

    What goes wrong is said to the first visitor, who asks for the same again.
    """

    def draw() -> None:
        with suppress(ShieldError):
            page.draw(first_request(page), lambda told: None)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    return thread


def theme() -> Any:
    """The system's own fonts, so that nothing is fetched from anywhere, and colors that can be read by all."""
    base = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
