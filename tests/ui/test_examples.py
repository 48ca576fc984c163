"""What the page says of the shipped model: what it knows, what it doesn't, and prompts to begin with."""

from probes.testbed.manifest import load_manifest
from shield.protected.concepts import Concept
from ui.examples import examples, known, unknown_words


def test_words_that_the_shipped_model_never_saw_are_named() -> None:
    assert unknown_words("testbed", "An astronaut, riding a red horse") == ("astronaut", "riding", "horse")
    assert unknown_words("testbed", load_manifest().shown()[0].captions[0]) == ()
    assert unknown_words("some/other", "an astronaut") == ()


def test_a_shipped_model_says_what_it_knows_and_shows_examples_of_it() -> None:
    what = known("testbed")
    assert what is not None and "cat" in what.things and len(what.works) > 50
    assert not [word for text in what.works for word in unknown_words("testbed", text)]
    assert known("some/other") is None
    found = examples("testbed", (Concept("quimble", descriptions=("the orange monster",)),))
    assert [one.picture is not None for one in found] == [True] * 5 and found[0].prompt in what.works
    (only,) = examples("some/other", ())
    assert only.picture is None
