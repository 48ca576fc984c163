"""What visitors of one page see of each other in real browsers, and what strangers' files and folders can't do."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.runs.folder import Run
from tests.ui.pictures import saved
from tests.ui.steps import choose, draw, open_tab

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]
EVIL = "<img src=x onerror='window.evil=1'>"


def test_who_waits_is_told_so_can_cancel_and_uses_the_page_meanwhile(visit: Callable) -> None:
    ann, bob = visit(), visit()
    status = bob.locator("#shield-status")
    draw(ann, "a red thing 1", 100, wait=False)
    ann.locator("#shield-status").get_by_text(re.compile("step [2-9] of 100")).wait_for()
    draw(bob, "a red thing 1", 1, wait=False)
    status.get_by_text("Waiting for your turn").wait_for()
    bob.get_by_role("button", name="Cancel", exact=True).click()
    status.get_by_text("Canceled.").wait_for()

    open_tab(bob, "Protected")
    begun = time.monotonic()
    bob.get_by_label("Try a prompt").fill("a mikey mouse")
    bob.get_by_label("Try a prompt").press("Enter")
    bob.locator("#trial").get_by_text("Mickey Mouse, misspelled").wait_for()
    taken = time.monotonic() - begun
    assert ann.locator("#shield-status").get_by_text(re.compile("of 100")).is_visible(), "the picture is still drawn"
    assert taken < 5.0, f"the page took {taken:.1f} s to answer while a picture was drawn"

    open_tab(bob, "Shield")
    draw(bob, "a red thing 2", 1, wait=False)
    status.get_by_text("Waiting for your turn").wait_for()
    ann.locator("#shield-status").get_by_text(re.compile("^Passed")).wait_for(timeout=600_000)
    status.get_by_text(re.compile("^Passed")).wait_for()


def test_a_concept_holds_for_the_next_picture_until_it_is_removed(visit: Callable) -> None:
    page = visit()
    assert draw(page, "zorbulon at night", 1).startswith("Passed")
    open_tab(page, "Protected", "Concepts")
    page.get_by_label("Name", exact=True).fill("Zorbulan")
    page.get_by_label("Said instead in a rewritten prompt").fill("a lamp")
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator("#concept-said").get_by_text("Saved Zorbulan").wait_for()
    change(page, "Zorbulan")
    page.get_by_label("Name", exact=True).fill("Zorbulon")
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator("#concept-said").get_by_text("Saved Zorbulon").wait_for()
    open_tab(page, "Shield")
    assert "the prompt mentions Zorbulon (name)" in draw(page, "zorbulon at night", 1)
    open_tab(page, "Protected", "Concepts")
    change(page, "Zorbulon")
    page.get_by_role("button", name="Remove", exact=True).first.click()
    page.locator("#concept-said").get_by_text("Removed Zorbulon.").wait_for()
    open_tab(page, "Shield")
    assert draw(page, "zorbulon at night", 1).startswith("Passed")


def change(page, name: str) -> None:
    """Takes a concept into the form."""
    page.get_by_label("Concept to change").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(name)
    page.get_by_role("option", name=name, exact=True).click()
    assert page.get_by_label("Kind").input_value() == "character"
    page.wait_for_function(
        "name => [...document.querySelectorAll('input, textarea')].filter(e => e.value == name).length >= 2", arg=name
    )


def test_a_picture_is_protected_renamed_and_removed(visit: Callable, tmp_path: Path) -> None:
    """What the model draws itself is a copy as soon as it is protected."""
    page = visit()
    assert draw(page, "a red thing 3", 2).startswith("Passed")
    with page.expect_download() as picture:
        page.get_by_role("link", name="Download the picture").click()
    drawn = tmp_path / "drawn.png"
    picture.value.save_as(drawn)
    open_tab(page, "Protected", "Pictures")
    page.get_by_label("Name of the work").fill("Red harbor")
    upload(page, drawn)
    page.locator("#gallery-said").get_by_text("Added 1 picture to Red harbor").wait_for()
    choose(page, "Work to change", "Red harbor")
    page.get_by_label("New name").fill("Blue harbor")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.locator("#gallery-said").get_by_text("Renamed to Blue harbor.").wait_for()
    open_tab(page, "Shield")
    assert "copie" in draw(page, "a red thing 3", 2)
    near = page.locator("#shield-details .ds-nearest", has_text="Without the shield")
    assert "Blue harbor" in near.inner_text() and "counts as a copy" in near.inner_text()
    assert near.get_by_role("img", name="Protected work: Blue harbor").is_visible()
    open_tab(page, "Protected", "Pictures")
    choose(page, "Work to change", "Blue harbor")
    page.get_by_role("button", name="Remove", exact=True).last.click()
    page.locator("#gallery-said").get_by_text("Removed Blue harbor.").wait_for()
    open_tab(page, "Shield")
    assert draw(page, "a red thing 3", 2).startswith("Passed")


def upload(page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose pictures to add").click()
    chooser.value.set_files(str(file))


@pytest.mark.parametrize("name", ["large.png", "text.svg", "text.png"])
def test_what_is_too_large_or_no_picture_is_refused(visit: Callable, place, tmp_path: Path, name: str) -> None:
    """By the page itself, or by a sentence of ours; either way nothing is added."""
    page = visit()
    before = list(place[1].protected.works)
    open_tab(page, "Protected", "Pictures")
    page.get_by_label("Name of the work").fill("Nothing")
    file = tmp_path / name
    file.write_text("<svg onload='window.evil=1'>")
    if name == "large.png":
        with open(file, "r+b") as stream:
            stream.truncate(21 * 2**20)
    upload(page, file)
    page.locator("#gallery-said, [data-testid=toast-body]").get_by_text(
        re.compile("can't be read|exceeds|too large|maximum|Invalid file type|only", re.I)
    ).first.wait_for()
    assert place[1].protected.works == before and page.evaluate("window.evil") is None


def test_a_strangers_run_folder_is_text_and_stays_where_it_is(visit: Callable, place, tmp_path: Path) -> None:
    """A folder with HTML for a name, hostile records, a picture from elsewhere, and a link that leads out."""
    root, secret = place[1].folders.root, saved(tmp_path, 5, "secret.png")
    with Run.create(tmp_path / "elsewhere", {}, kind="audit", model={"name": "hidden"}) as run:
        run.finish("complete")
    with Run.create(root / EVIL, {"quick": True}, kind=EVIL, model={"name": EVIL}) as run:
        for picture in (f"../../{secret.name}", str(secret)):
            run.append(
                {
                    "id": picture,
                    "stage": "before",
                    "kind": "work",
                    "item": EVIL,
                    "prompt": EVIL,
                    "seed": 0,
                    "scores": {EVIL: 0.5},
                    "copied": True,
                    "reason": EVIL,
                    "picture": picture,
                    "action": EVIL,
                }
            )
        run.finish("complete")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    page = visit()
    open_tab(page, "Audit")
    page.locator("#runs [role=gridcell]:visible", has_text="onerror").first.wait_for()
    assert "hidden" not in page.locator("#runs").inner_text(), "a link leads out of the folder"
    choose(page, "Open a run", EVIL)
    for tab, place_of in (("Summary", "#run-summary"), ("Works", "#run-works"), ("Records", "#run-records")):
        open_tab(page, tab)
        page.locator(place_of).get_by_text("onerror").first.wait_for()
    open_tab(page, "Works")
    assert page.locator("#run-works img").count() == 0, "a picture from outside of the run was shown"
    assert page.evaluate("window.evil") is None and page.locator("img[src='x']").count() == 0
    (root / "out").unlink()
