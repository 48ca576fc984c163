"""What the page begins with, keeps and links to; on the tiny testbed's pipeline, without a browser."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from shield.errors import BadRequestError
from shield.protected.concepts import Concept
from ui import shown
from ui.app import prepared
from ui.drawing import Drawing
from ui.page import Page
from ui.request import DrawingRequest
from ui.tabs.shield import first_request, linked


def drawn(page: Page, asked: DrawingRequest) -> Drawing:
    return page.draw(asked, lambda told: None)


def test_what_the_page_begins_with_is_drawn_before_anybody_asks_and_once(place) -> None:
    page = place[1]
    prepared(page).join(120)
    frames: list = []
    first = page.draw(first_request(page), frames.append)
    assert frames == [] and drawn(page, first_request(page)) is first
    assert drawn(page, replace(first_request(page), seed=1)) is not first
    page.protected.save_concept(Concept("Keptwick"))
    again = drawn(page, first_request(page))
    assert again is not first, "what is protected has changed"
    assert again.shielded.tobytes() == first.shielded.tobytes()
    page.protected.remove_concept("Keptwick")


def test_no_more_drawings_are_kept_than_said(place) -> None:
    page = place[1]
    page.kept.most = 2
    asked = [DrawingRequest("the cat", steps=1, seed=n) for n in range(3)]
    made = [drawn(page, one) for one in asked]
    assert [page.kept.of(one, page.protected) for one in asked] == [None, *made[1:]]


def test_a_link_carries_what_decides_the_picture(place) -> None:
    page = place[1]
    asked = DrawingRequest("a cat & 50% of <b>", "testbed-clean", "strict", 2**40, 7, 2.5)
    query: Mapping[str, str] = dict(parse_qsl(shown.link_to(asked)[1:]))
    assert linked(page, first_request(page), query) == asked
    assert linked(page, first_request(page), {"__theme": "dark"}) == first_request(page)
    assert linked(page, first_request(page), {"seed": "5"}) == replace(first_request(page), seed=5)
    for wrong, says in (
        ({"model": "/etc"}, "no model '/etc' here"),
        ({"seed": "x"}, "seed is a number"),
        ({"steps": "100000"}, "number of steps lies between"),
        ({"policy": "none"}, "no policy"),
        ({"prompt": "x" * 1001}, "at most 1000 characters"),
    ):
        with pytest.raises(BadRequestError, match=says):
            linked(page, first_request(page), wrong)


def test_a_copy_stands_beside_its_original_unveiled_and_what_is_flagged_otherwise_is_veiled(place) -> None:
    page = place[1]
    drawing = drawn(page, DrawingRequest("Mickey Mouse", steps=1))
    nearest = drawing.recalled
    assert nearest is not None and drawing.verdict.flagged
    no = replace(drawing, recalled=replace(nearest, copied=False, near=False))
    copy = replace(drawing, recalled=replace(nearest, copied=True, work=page.protected.names()[0]))
    assert (
        shown.veiled(no) and "Show the flagged picture" in shown.row(page, no) and shown.UNKNOWN in shown.row(page, no)
    )
    assert not shown.veiled(copy) and "Show the flagged" not in shown.row(page, copy)
    assert shown.row(page, copy).count("<img") == 3 and shown.row(page, no).count("<img") == 2
    assert shown.slide(page, no) is None
    title, (left, right) = shown.slide(page, copy) or ("", ())
    assert title.startswith("Original") and left.size == right.size and right is drawing.unshielded
