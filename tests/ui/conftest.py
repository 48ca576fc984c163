"""A page being served, and a real browser to look at it with."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ui.serving import served, weights

AXE = "axe-core@4"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, object]]:
    """(address, what is behind it) of a served tiny testbed."""
    with weights(tmp_path_factory.mktemp("weights")), served(tmp_path_factory.mktemp("runs")) as (url, page):
        yield url, page


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """The system's own browser; nothing is downloaded."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("a Chromium is needed on the path (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Seen(list):
    """What a browser complained about: errors on the console, of the page, and addresses elsewhere."""

    def watch(self, tab, url: str) -> None:
        ours = (url.split("?")[0], "data:", "blob:")
        tab.on("console", lambda message: self.append(message.text) if _is_error(message) else None)
        tab.on(
            "response", lambda answer: self.append(f"{answer.status}: {answer.url}") if _is_refusal(answer) else None
        )
        tab.on("pageerror", lambda error: self.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith(ours) else self.append(f"elsewhere: {request.url}"),
        )


def _is_error(message) -> bool:
    """What the server refused is told with its address, by `_is_refusal`."""
    return message.type == "error" and not message.text.startswith("Failed to load resource: the server responded")


def _is_refusal(answer) -> bool:
    """All but Gradio canceling a call that was asked for so lately that it has no id yet."""
    too_early = answer.status == 422 and answer.url.endswith(("/cancel", "/reset"))
    return answer.status >= 400 and not (too_early and '"event_id":null' in (answer.request.post_data or ""))


@pytest.fixture
def browse(chromium) -> Iterator[Callable]:
    """browse(url, width, dark) opens a page; complaints of the browser fail the test."""
    seen, contexts = Seen(), []

    def opened(url: str, width: int = 1280, dark: bool = False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            accept_downloads=True,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(120_000)
        seen.watch(tab, url)
        tab.goto(url)
        tab.get_by_role("tab", name="Shield").wait_for()
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert list(seen) == []


@pytest.fixture
def visit(browse: Callable, place) -> Callable:
    """visit(width, dark) opens the page of the tiny testbed."""
    return lambda width=1280, dark=False: browse(place[0], width, dark)


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core (MPL-2.0), fetched by npm and kept nowhere."""
    if shutil.which("npm") is None:
        pytest.skip("npm is needed to fetch axe-core (Debian: apt-get install npm)")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm can't fetch {AXE}: {done.stderr.strip().splitlines()[-1:]}")
    with tarfile.open(next(Path(folder).glob("axe-core-*.tgz"))) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()
