"""The page in a real browser: each tab's main path, cancel, phone and desktop, light and dark, keyboard, axe."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image

from probes.audit.audit import audit
from probes.scan.scan import scan
from probes.testbed.drawing.scenes import THINGS
from shield.model.loading import load
from shield.runtime.policy import preset
from shield.runtime.settings import setting_of
from shield.thresholds import Threshold, calibrated, save_threshold
from tests.probes.audit.test_audit_command import PLAN
from tests.ui.pictures import saved
from tests.ui.serving import served, weights
from tests.ui.steps import WATCH, answered, choose, draw, open_tab, pick, to_tab_on_phone
from ui.tabs.shield import first_request

# Gradio's own, with pandas 3.
QUIET = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200), QUIET]
EVIL = "<img src=x onerror='window.evil=1'> ${window.evil=1} {{evil}}"


def cell(page, table: str, text: str):
    """The first cell of a table that shows this; others measure its width out of sight."""
    return page.locator(f"{table} [role=gridcell]:visible", has_text=text).first


def upload(page, button: str, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button).click()
    chooser.value.set_files([str(file) for file in files])


def test_a_benign_prompt_passes_and_is_the_same_on_both_sides(visit: Callable, tmp_path: Path) -> None:
    page = visit()
    assert draw(page, "a red thing 1", 2) == "Passed: nothing was flagged, so the shield changed nothing."
    pictures = page.locator("#shield-pictures")
    assert "(the same, to the bit)" in pictures.inner_text()
    assert pictures.get_by_role("checkbox").count() == 0 and pictures.get_by_role("img").count() == 2
    page.get_by_role("img", name=re.compile("Without the shield it is .* at the first step")).wait_for()
    assert page.locator("#shield-details .ds-word").count() == 4, "every word is weighed"
    with page.expect_download() as picture:
        page.get_by_role("link", name="Download the picture").click()
    with page.expect_download() as verdict:
        page.get_by_role("link", name="Download the verdict (JSON)").click()
    assert Image.open(picture.value.path()).size == (64, 64)
    assert json.loads(Path(verdict.value.path()).read_text())["verdict"]["status"] == "passed"
    assert page.get_by_role("button", name="Cancel", exact=True).is_disabled()


def test_a_flagged_prompt_is_veiled_rewritten_and_explained(visit: Callable) -> None:
    page = visit()
    assert draw(page, "a drawing of mikey mouse", 2).startswith(("Flagged and drawn as", "Blocked"))
    veiled = page.locator("#shield-pictures figure", has_text="Without the shield")
    image = veiled.get_by_role("img")
    assert "blur" in image.evaluate("e => getComputedStyle(e).filter")
    box = veiled.get_by_label("Show the flagged picture")
    image.click(force=True)  # the box covers the picture
    assert box.is_checked() and image.evaluate("e => getComputedStyle(e).filter") == "none"
    box.uncheck()
    assert "blur" in image.evaluate("e => getComputedStyle(e).filter")
    details = page.locator("#shield-details")
    assert "Mickey Mouse, misspelled" in details.inner_text()
    assert (details.locator("del").inner_text(), details.locator("ins").inner_text()) == ("mikey", "a cartoon")


def test_the_first_picture_is_there_on_load_and_a_link_draws_one_again(
    visit: Callable, browse: Callable, place
) -> None:
    page = visit()
    page.locator("#shield-status").get_by_text(re.compile("^(Passed|Flagged)")).wait_for()
    titles = page.locator("#shield-pictures figcaption").all_inner_texts()
    assert [title.split(" (")[0] for title in titles] == ["Original", "Without the shield", "Behind the shield"]
    tops = page.locator("#shield-pictures figure").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "in one row"
    page.get_by_label("Seed", exact=True).fill("7")
    draw(page, "a red thing 1", 2)
    address = page.get_by_role("link", name="Link to this prompt and seed").get_attribute("href")
    first = page.get_by_role("img", name="behind the shield: passed").get_attribute("src")
    other = browse(place[0] + address)
    other.locator("#shield-status").get_by_text(re.compile("^Passed")).wait_for()
    assert other.get_by_label("Prompt", exact=True).input_value() == "a red thing 1"
    assert other.get_by_label("Seed", exact=True).input_value() == "7"
    assert other.get_by_role("img", name="behind the shield: passed").get_attribute("src") == first
    wrong = browse(place[0] + "?prompt=a&seed=x")
    wrong.get_by_role("alert").get_by_text("The seed is a number; 'x' was given.").wait_for()


def test_examples_chips_dice_and_history(visit: Callable) -> None:
    page = visit()
    page.locator("#shield-status").get_by_text(re.compile("^(Passed|Flagged)")).wait_for()
    assert pick(page, "An ordinary scene").startswith("Passed")
    scene = page.get_by_label("Prompt", exact=True).input_value()
    page.get_by_role("button", name="things and").click()
    thing = next(iter(THINGS))
    page.get_by_role("button", name=thing, exact=True).click()
    page.wait_for_function(f"() => document.querySelector('#prompt textarea').value.includes('{thing}')")
    page.get_by_role("button", name="Another seed").click()
    page.wait_for_function("() => document.querySelector('.ds-seed input').value != '0'")
    draw(page, "an astronaut", 1)
    page.locator("#shield-status").get_by_text("never shown “astronaut”").wait_for()
    strip = page.locator("#history")
    assert "an astronaut" in strip.inner_text()
    page.evaluate(WATCH)
    strip.locator("button", has_text=scene[:30]).click()
    assert answered(page).startswith("Passed")
    assert page.get_by_label("Prompt", exact=True).input_value() == scene
    assert page.get_by_label("Seed", exact=True).input_value() == "0"


def test_a_copy_slides_over_its_original(visit: Callable, place, tmp_path: Path) -> None:
    """The picture that the tiny model draws of this prompt is protected, so that drawing it again copies it."""
    behind, page = place[1], visit()
    assert draw(page, "a red thing 1", 2).startswith("Passed") and not page.locator("#slide").is_visible()
    drawing = behind.draw(replace(first_request(behind), prompt="a red thing 1", steps=2), lambda told: None)
    drawing.unshielded.save(tmp_path / "mine.png")
    behind.protected.add_works([tmp_path / "mine.png"])
    try:
        assert draw(page, "a red thing 1", 2).startswith(("Flagged", "Blocked"))
        assert page.locator("#shield-pictures figure").first.get_by_role("img").count() == 1
        assert page.get_by_label("Show the flagged picture").count() == 0, "its original stands beside it"
        page.locator("#slide button").first.click()
        page.locator("#slide").get_by_text("Original | without the shield").wait_for()
        page.wait_for_function("() => document.querySelectorAll('#slide img').length == 2")
    finally:
        behind.protected.remove_work("mine")


def test_on_a_phone_the_pictures_come_right_under_the_button(visit: Callable) -> None:
    page = visit(390)
    page.locator("#shield-status").get_by_text(re.compile("^(Passed|Flagged)")).wait_for()
    top = {
        name: page.locator(name).bounding_box()["y"]
        for name in ("#draw", "#shield-status", "#shield-pictures", ".ds-seed", "#examples", "#model-state")
    }
    assert list(top) == sorted(top, key=top.get) and top["#shield-pictures"] < 600


def test_a_strangers_html_stays_text(visit: Callable) -> None:
    page = visit()
    draw(page, EVIL, 1)
    assert draw(page, EVIL + " Mickey Mouse", 1).startswith(("Flagged", "Blocked"))
    assert EVIL.split(" ${")[0] in page.locator("#shield-details").inner_text()
    open_tab(page, "Protected")
    page.get_by_label("Try a prompt").fill(EVIL)
    page.get_by_role("button", name="Try", exact=True).click()
    page.locator("#trial").get_by_text("{{evil}}").wait_for()
    page.get_by_label("Name", exact=True).fill(EVIL)
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator("#concept-said").get_by_text("Saved <img").wait_for()
    assert page.evaluate("window.evil") is None and page.locator("img[src='x']").count() == 0


def test_cancel_stops_a_picture_and_the_next_one_is_drawn(visit: Callable) -> None:
    """Several times: what was on its way when it was canceled may arrive late."""
    page = visit()
    for _ in range(6):
        draw(page, "a red thing 1", 100, wait=False)
        # All at once and at once canceled: the tiny model draws a hundred steps in about a second.
        page.wait_for_function("""() =>
            /step ([2-9]|\\d\\d) of 100/.test(document.querySelector('#shield-status').innerText)
            && document.querySelector('#shield-status progress[aria-label="Denoising steps"]')
            && document.querySelectorAll('#shield-pictures img').length == 1""")
        page.get_by_role("button", name="Cancel", exact=True).click()
        page.locator("#shield-status").get_by_text("Canceled.").wait_for()
        assert draw(page, "a red thing 1", 1).startswith("Passed")


def test_a_mistake_is_one_sentence(visit: Callable) -> None:
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("  ")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_role("alert").get_by_text("A prompt is needed; type what to draw.").wait_for()


def test_a_concept_is_added_tried_and_removed(visit: Callable) -> None:
    page = visit()
    open_tab(page, "Protected", "Concepts")
    page.get_by_label("Name", exact=True).fill("Glimmerwick")
    page.get_by_label("Also called").fill("the lamp moth\nglim")
    page.get_by_role("button", name="Save", exact=True).click()
    said = page.locator("#concept-said")
    said.get_by_text("Saved Glimmerwick").wait_for()
    page.get_by_label("Name", exact=True).fill("glim")
    page.get_by_role("button", name="Save", exact=True).click()
    said.get_by_text("stands for both").wait_for()
    page.get_by_label("Try a prompt").fill("a glimmerwikc at night")
    page.get_by_label("Try a prompt").press("Enter")
    page.locator("#trial").get_by_text("Glimmerwick, misspelled").wait_for()
    page.get_by_label("Find a concept").fill("lamp moth")
    page.locator("#concepts").get_by_text(re.compile("^Concepts 1 to 1 of 1 that fit")).wait_for()
    page.get_by_label("Concept to change").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("Glimmer")
    page.get_by_role("option", name="Glimmerwick").click()
    page.get_by_role("button", name="Remove", exact=True).first.click()
    said.get_by_text("Removed Glimmerwick.").wait_for()


def test_a_broken_file_is_refused_and_a_good_one_protected(visit: Callable, tmp_path: Path) -> None:
    page = visit()
    open_tab(page, "Protected", "Pictures")
    broken = tmp_path / "broken.png"
    broken.write_bytes(saved(tmp_path, 1).read_bytes()[:120])
    name, said = page.get_by_label("Name of the work"), page.locator("#gallery-said")
    name.fill("Harbor <b>at</b> night")
    for file, says in (
        (broken, "broken.png can't be read as a PNG, JPEG or WEBP picture"),
        (saved(tmp_path, 2), "Added 1 picture to Harbor <b>at</b> night"),
    ):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose pictures to add").click()
        chooser.value.set_files(str(file))
        said.get_by_text(says).wait_for()
    page.get_by_label("Find a work").fill("harbor")
    page.locator("#gallery").get_by_text("Harbor <b>at</b> night").wait_for()


def test_a_folder_and_an_archive_are_added_by_their_files_names_and_there_on_reload(
    visit: Callable, tmp_path: Path
) -> None:
    page = visit()
    open_tab(page, "Protected", "Pictures")
    folder = tmp_path / "works"
    folder.mkdir()
    files = [saved(folder, 11, "lone lamp.png"), saved(folder, 12, "two moons.png")]
    (folder / "notes.txt").write_text("no picture")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as packed:
        packed.write(saved(tmp_path, 13), "deep/three boats.png")
    said = page.locator("#gallery-said")
    for button, chosen, says in (
        ("Choose a folder", folder, f"Added {len(files)} pictures, each named after its file"),
        ("Choose pictures to add", tmp_path / "more.zip", "Added 1 picture, each named after its file"),
    ):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=button).click()
        chooser.value.set_files(str(chosen))
        said.get_by_text(says).wait_for()
    page = visit()  # loads the page anew
    open_tab(page, "Protected", "Pictures")
    for name in ("lone lamp", "two moons", "three boats"):
        page.get_by_label("Find a work").fill(name)
        page.locator("#gallery li").get_by_text(name).wait_for()
    page.get_by_label("Work to change").click()
    page.get_by_role("option", name="three boats").wait_for()


@pytest.fixture(scope="module")
def finished(place) -> Iterator[str]:
    """A real audit of the tiny testbed, of the smallest size, in the page's runs folder."""
    audit("testbed", place[1].folders.root / "smallest", plan=PLAN, device="cpu", show_progress=False)
    yield "smallest"


@pytest.fixture(scope="module")
def scanned(place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real scan of the page's runs folder, with a threshold that flags everything."""
    own = tmp_path_factory.mktemp("scanned")
    (own / "mine.txt").write_text("a red thing 1\na drawing of a cat\n")
    save_threshold(_flagging(), own / "limits")
    root = place[1].folders.root
    scan(own / "mine.txt", root / "scanned", device="cpu", show_progress=False, thresholds=own / "limits")
    return "scanned"


def _flagging() -> Threshold:
    detector = preset("balanced").detectors[0]
    return calibrated(detector, [-1.0] * 99, 0.05, setting_of(load("testbed", device="cpu"), 25, 5.0), "testbed")


def test_a_finished_run_is_opened_filtered_and_downloaded(visit: Callable, finished: str) -> None:
    page = visit()
    open_tab(page, "Audit")
    cell(page, "#runs", finished).click()
    page.locator("#run-summary").get_by_text("In plain words").wait_for()
    assert page.get_by_label("Open a run", exact=True).input_value() == finished
    with page.expect_download() as report:
        page.get_by_role("button", name="Download the whole report (HTML)").click()
    assert '<ol class="flow">' in Path(report.value.path()).read_text()
    open_tab(page, "Curves")
    page.get_by_role("img", name=re.compile("Copies by how often")).wait_for()
    page.get_by_role("img", name=re.compile("Share of each layer")).wait_for()
    open_tab(page, "Works")
    works = page.locator("#run-works")
    works.get_by_role("img").first.wait_for()
    page.get_by_label("Find in name or prompt").fill("nonmember")
    works.get_by_text(re.compile(r"Works 1 to 1 of 1")).wait_for()
    page.get_by_label("Only works that were copied").check()
    works.get_by_text("No works fit.").wait_for()
    page.get_by_label("Only works that were copied").uncheck()
    page.get_by_label("Find in name or prompt").fill("")
    choose(page, "Order", "exposures, most first")
    page.wait_for_function(
        "() => /^shown 384 times/.test(document.querySelector('#run-works tbody tr .ds-note').innerText)"
    )
    choose(page, "Order", "name")
    page.wait_for_function("() => document.querySelector('#run-works tbody tr').innerText.startsWith('nonmember')")
    choose(page, "Group", "members")
    page.wait_for_function("() => !document.querySelector('#run-works').innerText.includes('nonmember')")
    assert works.locator("tbody tr").count() > 0
    open_tab(page, "Records")
    choose(page, "Stage", "scan")
    page.locator("#run-records").get_by_text(re.compile("^Records 1 to")).wait_for()


def test_an_audit_is_started_watched_canceled_and_continued(visit: Callable) -> None:
    page, other = visit(), visit()
    button = {
        name: page.get_by_role("button", name=name)
        for name in ("Start a quick audit", "Cancel the audit", "Continue the run")
    }
    open_tab(page, "Audit")
    open_tab(other, "Audit")
    other.locator("#start-audit:not([disabled])").wait_for()
    state = page.locator("#audit-state")
    assert button["Cancel the audit"].is_disabled() and button["Continue the run"].is_disabled()
    button["Start a quick audit"].click()
    state.get_by_text(re.compile(r"audit-[\d-]+: (stage \d+ of|loading)")).first.wait_for()
    other.get_by_role("button", name="Start a quick audit").click()
    other.locator("#audit-said").get_by_text("is running; wait for it or cancel it").wait_for()
    state.get_by_text(re.compile(r"stage [2-9] of \d+")).wait_for(timeout=600_000)
    assert state.get_by_role("progressbar", name="Progress of the run").is_visible()
    steps = state.get_by_role("list", name="Stages of the audit")
    assert "score the promptsdone" in steps.inner_text().replace("\n", "")
    page.locator("#run-summary").get_by_text(re.compile("audit of testbed, running")).wait_for()
    open_tab(page, "Records")
    records = page.locator("#run-records").get_by_text(re.compile("^Records 1 to"))
    first = records.inner_text()
    page.wait_for_function("first => !document.querySelector('#run-records').innerText.includes(first)", arg=first)
    assert button["Start a quick audit"].is_disabled()
    button["Cancel the audit"].click()
    state.get_by_text("was canceled; what it had done is kept").wait_for()
    cell(page, "#runs", "interrupted").wait_for()
    button["Continue the run"].click()
    state.get_by_text(re.compile(r"audit-[\d-]+: stage \d+ of")).wait_for()
    button["Cancel the audit"].click()
    state.get_by_text("was canceled; what it had done is kept").wait_for()


def test_a_list_that_only_has_the_focus_leaves_the_form_alone(visit: Callable) -> None:
    page = visit()
    open_tab(page, "Protected")
    name = page.get_by_label("Name", exact=True)
    name.click()
    page.keyboard.type("Half written")
    for key in ("Shift+Tab", "Shift+Tab", "Tab", "Tab"):  # to the list of concepts before it, and back
        page.keyboard.press(key)
    page.wait_for_timeout(1500)
    assert name.input_value() == "Half written"


def test_everything_can_be_done_with_the_keyboard(visit: Callable, finished: str) -> None:
    page = visit()

    def tab_to(found: str) -> None:
        """Presses Tab until the focused element's name or text is this."""
        for _ in range(80):
            page.keyboard.press("Tab")
            named = page.evaluate("""() => { const e = document.activeElement;
                const label = e.labels && e.labels.length ? e.labels[0].innerText : '';
                const text = ['BUTTON', 'A'].includes(e.tagName) ? e.innerText : '';
                return [e.getAttribute('aria-label'), label, text].filter(Boolean).join('|'); }""")
            if found in named:
                assert page.evaluate(
                    "() => getComputedStyle(document.activeElement).outlineStyle != 'none' || "
                    "getComputedStyle(document.activeElement).boxShadow != 'none'"
                ), named
                return
        raise AssertionError(f"Tab never reached {found}")

    tab_to("Prompt")
    page.keyboard.press("Control+a")
    page.keyboard.type("Mickey Mouse")
    tab_to("Draw")
    page.keyboard.press("Enter")
    page.locator("#shield-status").get_by_text(re.compile("^(Flagged|Blocked)")).wait_for()
    tab_to("Show the flagged picture")
    page.keyboard.press("Space")
    assert page.locator(".ds-veiled img").evaluate("e => getComputedStyle(e).filter") == "none"
    page.get_by_role("tab", name="Shield").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Try a prompt").wait_for()
    tab_to("Name")
    page.keyboard.type("Keyboardist")
    tab_to("Save")
    page.keyboard.press("Enter")
    page.locator("#concept-said").get_by_text("Saved Keyboardist").wait_for()
    page.get_by_role("tab", name="Scan").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    tab_to("Open a run")
    page.keyboard.type(finished)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator("#run-summary").get_by_text("In plain words").wait_for()
    tab_to("Works")
    page.keyboard.press("Enter")
    page.locator("#run-works").get_by_role("img").first.wait_for()


@pytest.mark.parametrize("width", [360, 1280])
def test_no_tab_is_wider_than_its_screen(visit: Callable, finished: str, width: int) -> None:
    page = visit(width)
    draw(page, "Mickey Mouse on the moon", 1)
    for names in (("Shield",), ("Protected", "Concepts"), ("Protected", "Pictures"), ("Scan",), ("Audit",)):
        for name in names:
            if width > 500:
                open_tab(page, name)
            else:
                to_tab_on_phone(page, name)
        if names == ("Audit",):
            choose(page, "Open a run", finished)
            page.locator("#run-summary").get_by_text("In plain words").wait_for()
        wide = page.evaluate("() => document.scrollingElement.scrollWidth")
        assert wide <= width, f"{names} is {wide} pixels wide"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(visit: Callable, finished: str, scanned: str, axe: str, dark: bool) -> None:
    page = visit(dark=dark)
    draw(page, "Mickey Mouse on the moon", 1)
    page.evaluate(axe)
    found = {}
    for names in (
        ("Shield",),
        ("Protected", "Concepts"),
        ("Protected", "Pictures"),
        ("Protected", "Export and import"),
        ("Scan",),
        ("Audit", "Summary"),
        ("Audit", "Curves"),
        ("Audit", "Works"),
        ("Audit", "Records"),
    ):
        open_tab(page, *names)
        if names == ("Audit", "Summary"):
            choose(page, "Open a run", finished)
            page.locator("#run-summary").get_by_text("In plain words").wait_for()
        if names == ("Scan",):
            choose(page, "Scan to show", scanned)
            cell(page, "#scan-rows", "%").click()
            page.locator("#scan-words").get_by_text("How strongly each word pulls").wait_for()
        page.wait_for_timeout(500)
        for rule in page.evaluate("() => axe.run()")["violations"]:
            nodes = [(node["target"], node["html"][:200], node["failureSummary"]) for node in rule["nodes"][:4]]
            found[f"{' '.join(names)}: {rule['id']}"] = nodes
    assert not found, json.dumps(found, indent=1)


def test_the_page_is_there_before_the_model_which_says_that_it_loads(browse: Callable, tmp_path: Path) -> None:
    """Processor time stands for the ten seconds, so that a busy machine doesn't decide. It is read before the model,
    which loads beside the page from then on, adds to it.
    """
    command = [sys.executable, "-m", "ui", "--runs", str(tmp_path), "--port", "7999"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout.readline().startswith("The page is at http://127.0.0.1:7999")
        spent = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        seconds = (int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK")
        assert httpx.get("http://127.0.0.1:7999/").status_code == 200
        assert seconds < 10.0, f"{seconds:.1f} s of processor time"
        page = browse("http://127.0.0.1:7999/")
        state = page.locator("#model-state")
        state.get_by_text(re.compile("Loading testbed|testbed loads")).wait_for()
        state.get_by_text("testbed is loaded").wait_for()
        page.context.close()
    finally:
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM, "it closes what it opened"


def test_a_model_that_isnt_calibrated_is_drawn_with_names_alone_until_the_button_is_pressed(
    browse: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    with weights(tmp_path / "weights", threshold=None), served(tmp_path / "runs") as (url, _):
        page = browse(url)
        status, button = page.locator("#shield-status"), page.locator("#calibrate")
        status.get_by_text("Memorization wasn't judged").wait_for()
        assert draw(page, "a red thing 1", 2).startswith("Handed out as it was drawn")
        assert button.inner_text() == "Calibrate testbed (up to a minute)"
        assert draw(page, "Mickey Mouse on the moon", 2).startswith(("Flagged", "Blocked"))
        assert "Memorization wasn't judged" in status.inner_text()
        button.click()
        page.wait_for_function("() => document.querySelector('#shield-status progress[aria-label=\"Benign prompts\"]')")
        page.get_by_role("button", name="Cancel", exact=True).click()
        status.get_by_text("Canceled.").wait_for()
        page.locator("#draw:not([disabled])").wait_for()
        assert draw(page, "a red thing 1", 2).startswith("Handed out as it was drawn")
        page.evaluate(WATCH)
        button.click()
        assert answered(page).startswith(("Passed", "Flagged"))
        assert "Memorization wasn't judged" not in status.inner_text() and not button.is_visible()
        page.context.close()


def test_prompts_are_scanned_live_with_the_words_of_what_was_flagged(browse: Callable, tmp_path: Path) -> None:
    """With a threshold that flags everything."""
    prompts = ["a red thing 1", f"{EVIL} and a cat", *(f"a thing {number}" for number in range(300))]
    (tmp_path / "mine.txt").write_text("\n".join(prompts))
    with weights(tmp_path / "weights", threshold=-1.0), served(tmp_path / "runs") as (url, _):
        page = browse(url)
        open_tab(page, "Scan")
        upload(page, "Choose a file of prompts", tmp_path / "mine.txt")
        page.locator("#scan-file-said").get_by_text("Chosen: mine.txt.").wait_for()
        page.get_by_label("Prompts to score at most").fill("302")
        page.get_by_role("button", name="Scan", exact=True).click()
        state, found = page.locator("#scan-state"), page.locator("#scan-found")
        state.get_by_text(re.compile(r"scan-[\d-]+: \d+ of 302 prompts scored")).wait_for()
        found.get_by_text(re.compile(r"^\d+ scores, \d+ flagged")).wait_for()
        page.get_by_role("button", name="Cancel the scan").click()
        state.get_by_text("was canceled; what it had done is kept").wait_for()
        page.locator("#resume-scan:not([disabled])").click()
        state.get_by_text("is complete.").wait_for()
        found.get_by_text("302 scores, 302 flagged, by a structure gap above -1.000").wait_for()
        cell(page, "#scan-rows", "%").click()
        page.locator("#scan-words").get_by_text("How strongly each word pulls").wait_for()
        assert cell(page, "#scan-rows", EVIL).is_visible()
        with page.expect_download() as listed:
            page.get_by_role("button", name="Download flagged.csv").click()
        table = Path(listed.value.path()).read_text()
        assert table.startswith("item,prompt,score") and len(table.splitlines()) == 303
        assert page.evaluate("window.evil") is None and page.locator("img[src='x']").count() == 0
        page.context.close()


def test_own_prompts_and_pictures_are_audited(visit: Callable, place, tmp_path: Path) -> None:
    page = visit()
    open_tab(page, "Audit")
    page.locator("#start-audit:not([disabled])").wait_for()
    page.get_by_role("button", name="Your own prompts and pictures").click()
    for number, name in enumerate(("a red thing.png", "a lone lamp.png"), start=21):
        saved(tmp_path, number, name)
    upload(page, "Choose prompts and pictures", tmp_path / "a red thing.png", tmp_path / "a lone lamp.png")
    page.locator("#own-files-said").get_by_text("Chosen: a red thing.png, a lone lamp.png.").wait_for()
    page.get_by_role("button", name="Start a quick audit").click()
    state = page.locator("#audit-state")
    state.get_by_text(re.compile(r"stage \d+ of \d+, draw")).first.wait_for(timeout=300_000)
    name = place[1].runner.name
    page.get_by_role("button", name="Cancel the audit").click()
    state.get_by_text("was canceled; what it had done is kept").wait_for()
    open_tab(page, "Records")
    page.locator("#run-records").get_by_text("a lone lamp").first.wait_for()
    works = [one for one in place[1].folders.records(name) if one["stage"] == "work" and one["kind"] != "nonmember"]
    assert [record["prompt"] for record in works] == ["a lone lamp", "a red thing"] and all(
        one["picture"] for one in works
    )
    page.locator("#own-files-forget").click()
    page.locator("#own-files-said").get_by_text("Nothing chosen.").wait_for()


def test_lists_have_pages_and_all_of_it_is_exported_and_imported(visit: Callable, place, tmp_path: Path) -> None:
    page = visit()
    open_tab(page, "Protected", "Concepts")
    count = len(place[1].protected.concepts.concepts)
    said = page.locator("#concepts .ds-note")
    said.get_by_text(f"Concepts 1 to 24 of {count}.").wait_for()
    page.locator("#concepts-on").click()
    said.get_by_text(f"Concepts 25 to 48 of {count}.").wait_for()
    page.locator("#concepts-back").click()
    page.locator("#concepts-back").click()
    said.get_by_text(f"Concepts 1 to 24 of {count}.").wait_for()
    open_tab(page, "Export and import")
    page.get_by_role("button", name="Export", exact=True).click()
    page.locator("#bundle-said").get_by_text(f"{count} concepts and").wait_for()
    with page.expect_download() as exported:
        page.get_by_role("button", name="Download protected.zip").click()
    exported.value.save_as(tmp_path / "protected.zip")
    removed = place[1].protected.concepts.concepts[0].name
    place[1].protected.remove_concept(removed)
    upload(page, "Import a .zip", tmp_path / "protected.zip")
    page.locator("#bundle-said").get_by_text("Imported: 1 concepts and 0 pictures are new or changed.").wait_for()
    open_tab(page, "Concepts")
    page.get_by_label("Find a concept").fill(removed)
    page.locator("#concepts td").get_by_text(removed, exact=True).first.wait_for()
