"""Pictures of every tab on the shipped model, in light, dark and on a phone: docs/ui/*.png, made by looking."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from probes.audit.audit import audit
from probes.drawing.draw import Sampling
from probes.scan.scan import scan
from probes.testbed.manifest import load_manifest
from tests.probes.audit.test_audit_command import PLAN
from tests.ui.serving import served
from tests.ui.steps import WATCH, answered, choose, open_tab, pick, to_tab_on_phone

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]
PROMPTS = (
    *(work.captions[0] for work in load_manifest().shown()),
    "a cat and a star on a blue background",
    "a picture of a castle on a gray background",
    "a red car and a green tree",
)
FRAME, COLORS, MOST_BYTES = (800, 563), 96, 2 * 2**20
SHOTS = Path(__file__).resolve().parents[2] / "docs" / "ui"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page on the shipped testbed, with an audit of the smallest size."""
    runs = tmp_path_factory.mktemp("shipped")
    audit("testbed", runs / "smallest", plan=PLAN, device="cpu", show_progress=False)
    (runs / "mine.txt").write_text("\n".join(PROMPTS))
    scan(runs / "mine.txt", runs / "my-prompts", sampling=Sampling(25, 2.0), device="cpu", show_progress=False)
    with served(runs) as (url, _):
        yield url


@pytest.mark.parametrize(
    "button, says",
    [
        ("A memorized work", "the prompt calls up one certain picture"),
        ("A protected character by name", "(name)"),
        ("… by description", "(described)"),
        ("… misspelled", "(misspelled)"),
        ("An ordinary scene", "Passed: nothing was flagged"),
    ],
)
def test_the_examples_show_what_they_say(browse: Callable, shipped: str, button: str, says: str) -> None:
    """On the shipped model, with the policy that the page begins with."""
    page = browse(shipped)
    sentence = pick(page, button)
    assert says in sentence and sentence.startswith("Passed") == (button == "An ordinary scene")
    details = page.locator("#shield-details")
    assert details.locator(".ds-word").count() > 3 and "threshold (step 1)" in details.inner_html()
    unshielded = details.locator(".ds-nearest", has_text="Without the shield")
    if button == "A memorized work":
        assert "counts as a copy" in unshielded.inner_text(), "what the bare model recalls"
    if "(" in says:
        assert details.locator("del").count() and details.locator("ins").count()


@pytest.mark.parametrize("name, width, dark", [("light", 1280, False), ("dark", 1280, True), ("phone", 390, False)])
def test_screenshots(browse: Callable, shipped: str, name: str, width: int, dark: bool) -> None:
    page, go = browse(shipped, width, dark), to_tab_on_phone if width < 500 else open_tab
    SHOTS.mkdir(parents=True, exist_ok=True)

    def shot(tab: str, whole: bool = False) -> None:
        page.wait_for_timeout(1000)
        page.evaluate("window.scrollTo(0, 0)")
        file = SHOTS / f"{tab}-{name}.png"
        page.screenshot(path=file, full_page=whole)
        with Image.open(file) as taken:
            small = taken.convert("RGB").quantize(256)  # a quarter of the bytes
        small.save(file, optimize=True)

    page.locator("#shield-status").get_by_text(re.compile("^(Flagged|Blocked)")).wait_for()
    page.locator("#model-state").get_by_text("testbed is loaded").wait_for()
    shot("shield", whole=True)
    go(page, "Protected")
    page.get_by_label("Try a prompt").fill("a drawing of quimbel, a friendly monster")
    page.get_by_label("Try a prompt").press("Enter")
    page.locator("#trial").get_by_text("quimble, misspelled").wait_for()
    shot("protected")
    go(page, "Pictures")
    shot("pictures")
    go(page, "Scan")
    choose(page, "Scan to show", "my-prompts")
    page.locator("#scan-rows [role=gridcell]:visible", has_text="%").first.click()
    page.locator("#scan-words").get_by_text("How strongly each word pulls").wait_for()
    shot("scan", whole=True)
    go(page, "Audit")
    choose(page, "Open a run", "smallest")
    page.locator("#run-summary").get_by_text("In plain words").wait_for()
    shot("audit")
    go(page, "Curves")
    page.get_by_role("img", name=re.compile("Share of each layer")).wait_for()
    shot("curves", whole=True)
    go(page, "Works")
    page.locator("#run-works").get_by_role("img").first.wait_for()
    shot("works", whole=True)


def test_an_animation_of_a_prompt_being_drawn(browse: Callable, shipped: str) -> None:
    """docs/ui/page.gif: a character by its description, step by step, then the other tabs."""
    page, frames = browse(shipped), list[tuple[bytes, int]]()
    page.locator("#shield-status").get_by_text(re.compile("^(Flagged|Blocked)")).wait_for()
    frames.append((page.screenshot(), 1500))
    page.evaluate(WATCH)
    with filmed(page) as film:
        page.locator("#examples button", has_text="… by description").click()
        page.evaluate("window.scrollTo(0, 0)")
        assert answered(page).startswith("Flagged")
    frames += [(picture, 150) for picture in film[:: len(film) // 40 + 1]]
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    frames.append((page.screenshot(), 3000))
    for tab in ("Protected", "Scan", "Audit"):
        open_tab(page, tab)
        page.wait_for_timeout(1200)
        frames.append((page.screenshot(), 1500))
    first, *others = [_small(picture) for picture, _ in frames]
    file, times = SHOTS / "page.gif", [shown for _, shown in frames]
    first.save(file, save_all=True, append_images=others, duration=times, loop=0, optimize=True)
    assert 8 < len(frames) < 64 and file.stat().st_size < MOST_BYTES


@contextmanager
def filmed(page: Page) -> Iterator[list[bytes]]:
    """The page's own frames while it changes, as PNG: screenshots one by one come too late for a quick model."""
    film, session = list[bytes](), page.context.new_cdp_session(page)

    def keep(event: dict) -> None:
        film.append(base64.b64decode(event["data"]))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "png"})
    yield film
    session.send("Page.stopScreencast")
    session.detach()


def _small(picture: bytes) -> Image.Image:
    with Image.open(io.BytesIO(picture)) as taken:
        return taken.convert("RGB").resize(FRAME).quantize(COLORS)
