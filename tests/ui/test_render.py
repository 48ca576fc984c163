"""What the tabs show: the right words, nothing by color alone, and every stranger's text as text."""

import base64
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from shield.protected.concepts import Concept, Concepts
from shield.types import Nearest, Score, Verdict, WordWeight
from ui import render
from ui.plots import in_words, score_plot

EVIL = "<img src=x onerror=alert(1)>\"'&{0}{x}${1}`"


class Elements(HTMLParser):
    """Tags with their attributes, and the text between them, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(str(text))

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def verdict(status: str = "passed", **more) -> Verdict:
    return Verdict(0, "a cat", status, **more)


@pytest.mark.parametrize(
    "made",
    [
        render.status(EVIL),
        render.note(EVIL),
        render.pictures([(EVIL, None, EVIL, "")]),
        render.pictures([(EVIL, "data:image/png;base64,", EVIL, "box")]),
        render.rewritten(EVIL, "a " + EVIL),
        render.heat(EVIL, [WordWeight("img", 1, 4, 1.0)]),
        render.nearest([(EVIL, Nearest(EVIL, "pdq", 1, 0, True), None)]),
        render.outline(Nearest(EVIL, "pdq", 1, 0, True, region=((0, 0), (1, 0), (1, 1), (0, 1))), (8, 8)),
        render.nearest([("one", Nearest(EVIL, "pdq", 1, 0, True), "data:image/png;base64,")]),
        render.mentions(EVIL, Concepts([Concept("onerror")]).found(EVIL)),
        render.concepts_table([Concept(EVIL, aliases=(EVIL,), descriptions=(EVIL,), substitute=EVIL)], ""),
        render.gallery_grid([(EVIL, None, 1)], 1, 1),
        render.table((EVIL,), [(EVIL,)], EVIL),
        render.scores(verdict(scores=(Score(EVIL, 1.0, None, 0),))),
    ],
)
def test_a_strangers_text_stays_text(made) -> None:
    """No tag and no attribute of theirs, and the text itself comes out whole."""
    seen = Elements(made)
    assert not any(attrs.get("src") == "x" or "onerror" in attrs for _, attrs in seen.tags)
    whole = seen.text.replace("onerroronerror, name", "onerror") + "".join(
        str(value) for _, attrs in seen.tags for value in attrs.values()
    )
    assert "onerror" in whole and "alert(1)" in whole


def test_a_flagged_picture_is_veiled_until_its_box_is_ticked() -> None:
    shown = render.pictures(
        [("one", "data:,1", "first", ""), ("two", "data:,2", "second", "box"), ("three", "data:,3", "third", "blurred")]
    )
    seen = Elements(shown)
    assert [figure.get("class") for figure in seen.all("figure")] == ["", "ds-veiled", "ds-veiled"]
    assert len(seen.all("input")) == 1 and "Show the flagged picture" in seen.text
    assert [image["alt"] for image in seen.all("img")] == ["first", "second", "third"]


def test_progress_counts_steps_and_mistakes_are_alerts() -> None:
    seen = Elements(render.status("step", 5, 25))
    assert seen.all("progress") == [{"max": "25", "value": "5", "aria-label": "Denoising steps"}]
    assert seen.all("div")[0]["role"] == "status"
    assert Elements(render.status("no", kind="bad")).all("div")[0]["role"] == "alert"
    assert Elements(render.status("waiting")).all("progress") == []


def test_rewriting_is_shown_word_by_word() -> None:
    made = str(render.rewritten("bolto on a gray background", "a friendly robot on a gray background"))
    assert "<del>bolto</del> <ins>a friendly robot</ins> on a gray background" in made
    assert render.rewritten("a", None) == "" and "<del>" not in render.rewritten("a b", "a b c")


def test_words_are_marked_by_their_share_of_the_strongest() -> None:
    seen = Elements(render.heat("the orchard!", [WordWeight("the", 0, 3, 0.2), WordWeight("orchard", 4, 11, 0.8)]))
    assert [span["style"] for span in seen.all("span")] == ["--share:0.25", "--share:1.00"]
    assert seen.text.startswith("Which words carry itthe20% orchard80%!")
    assert render.heat("the orchard", []) == ""


def test_concepts_found_are_marked_where_they_stand() -> None:
    found = Concepts([Concept("Quimble")]).found("a quimbel, please")
    seen = Elements(render.mentions("a quimbel, please", found))
    assert "a quimbelQuimble, misspelled, please" in seen.text and "1 protected concept found" in seen.text
    assert "Nothing protected found" in Elements(render.mentions("a cat", [])).text


def test_scores_say_their_threshold_or_that_there_is_none() -> None:
    made = render.scores(
        verdict(
            scores=(Score("noise_gap", 1.5, 1.2, 0), Score("other", 0.5, None, 2)), extra_calls=3, milliseconds=41.5
        )
    )
    text = Elements(made).text
    assert "noise gap1.51.21flagged" in text and "other0.5none3can't judge" in text
    assert "The shield took 0.04 s and 3 extra denoiser calls." in text
    assert render.scores(verdict()) == ""


def test_the_nearest_work_is_judged_in_words() -> None:
    copied, other = Nearest("w", "pdq", 0.95, 0.88, True), Nearest("v", "pdq", 0.5, 0.88, False)
    text = Elements(render.nearest([("Behind", other, None), ("Without", copied, "data:,"), ("None", None, None)])).text
    assert text == (
        "Nearest protected workBehind: vpdq 0.500, threshold 0.880: that is no copy."
        "Without: wpdq 0.950, threshold 0.880: that counts as a copy. Found by pixels."
    )
    assert render.nearest([("Behind", None, None)]) == ""
    turned = Nearest("w", "inliers", 40, 20, True, descriptor="local", region=((0, 0), (1, 0), (1, 1), (0, 1)))
    assert "Found by local, outlined in the picture above." in render.nearest([("Without", turned, None)])


def test_the_matched_region_is_drawn_over_the_picture() -> None:
    """The right half of a picture of 200 x 100, cut by 10 % of the width."""
    region = ((0.5, 0.0), (1.1, 0.0), (1.1, 1.0), (0.5, 1.0))
    found = Nearest("w", "local", 0.9, 0.8, True, descriptor="local", region=region)
    over = render.outline(found, (200, 100))
    assert 'viewBox="0 0 200 100"' in over and 'points="100.0,0.0 220.0,0.0 220.0,100.0 100.0,100.0"' in over
    shown = render.pictures([("Behind", "data:,", "words", "", over)])
    assert shown.index("<img") < shown.index(over) < shown.index("</figure>")
    assert render.outline(Nearest("w", "pdq", 0.5, 0.8, False), (200, 100)) == render.outline(None, (1, 1)) == ""


def test_near_is_said_to_be_neither() -> None:
    near = Nearest("w", "sscd", 0.8, 0.85, False, True, "sscd", None, 0.75)
    assert "sscd 0.800, threshold 0.850: that is near, but no copy." in render.nearest([("Behind", near, None)])


def test_what_a_second_attempt_repeats_is_said_once() -> None:
    twice = verdict("mitigated", scores=(Score("x", 1.0, 0.5, 0), Score("x", 1.0000001, 0.5, 0)))
    assert len(Elements(render.scores(twice)).all("tr")) == 2


def test_downloads_hold_the_picture_and_the_verdict() -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    *links, again = Elements(render.downloads(picture, {"prompt": EVIL}, "name", "?prompt=a&seed=1")).all("a")
    assert [link["download"] for link in links] == ["name.png", "name.json"] and again["href"] == "?prompt=a&seed=1"
    png, text = (base64.b64decode(link["href"].split(",", 1)[1]) for link in links)
    assert Image.open(io.BytesIO(png)).getpixel((2, 1)) == (10, 20, 30) and json.loads(text) == {"prompt": EVIL}


def test_lists_say_how_many_there_are() -> None:
    concepts = [Concept(f"c{n}", aliases=("other",) if n else ()) for n in range(30)]
    assert "Concepts 1 to 25 of 30." in Elements(render.concepts_table(concepts, "")).text
    found = Elements(render.concepts_table(concepts, "OTHER"))
    assert "Concepts 1 to 25 of 29 that fit; 30 in all." in found.text and len(found.all("tr")) == 26
    for page in (2, 99):
        last = Elements(render.concepts_table(concepts, "OTHER", page))
        assert "Concepts 26 to 29 of 29 that fit; 30 in all." in last.text and len(last.all("tr")) == 5
    assert "None of the 30 concepts fits." in Elements(render.concepts_table(concepts, "zebra")).text
    assert "There are no protected works yet." in Elements(render.gallery_grid([], 0, 0)).text


def test_the_plot_shows_its_scores_and_says_them() -> None:
    curve = [2.0, 1.0, None, 0.5]
    svg = score_plot(curve, "noise_gap", 1.5)
    assert svg.startswith("<svg") and "threshold (step 1)" in svg and "noise gap" in svg
    assert "threshold" not in score_plot(curve, "noise_gap", None)
    words = in_words(curve, "noise_gap", 1.5)
    assert words == (
        "Noise gap says how strongly the prompt, rather than chance, decides what is drawn. Without the "
        "shield it is 2 at the first step and 0.5 at the last. A picture is flagged above 1.5 at step 1."
    )
    assert in_words(curve, "new_one", None).startswith("Without the shield") and "no threshold" in in_words(
        curve, "new_one", None
    )
    assert Elements(render.plot(svg, words)).all("svg")[0]["aria-label"] == words


def test_a_line_of_no_kind_is_unfinished() -> None:
    assert render.unfinished(str(render.status("Drawing", 3, 25)))
    assert not render.unfinished(str(render.status('rewritten to <div class="ds-status ds-plain"', kind="mitigated")))
