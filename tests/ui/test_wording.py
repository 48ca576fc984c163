"""The verdict in one sentence that needs no glossary."""

import pytest

from shield.detectors import StructureGap
from shield.runtime.policy import decided, preset
from shield.runtime.preview_checks import GalleryPreview
from shield.types import Mention, Score, Verdict
from ui.wording import MEANS, sentence


def verdict(status: str = "passed", **more) -> Verdict:
    return Verdict(0, "a cat", status, **more)


@pytest.mark.parametrize(
    "given, flagged, says",
    [
        (verdict(), False, "Passed: nothing was flagged, so the shield changed nothing."),
        (verdict("blocked", reasons=("a",)), True, "Blocked, and a gray picture handed out instead: a."),
        (
            verdict("mitigated", reasons=("a", "b", "a"), rewritten_prompt="a dog"),
            True,
            "Flagged and drawn as “a dog” instead: a; b.",
        ),
        (verdict("mitigated", reasons=("a",)), True, "Flagged and steered elsewhere: a."),
        (
            verdict("mitigated", reasons=("the picture copies x (pdq 1)",)),
            True,
            "Flagged and steered elsewhere: a first attempt copied x (pdq 1).",
        ),
        (
            verdict("blocked", reasons=("the picture copies x (pdq 1)",)),
            True,
            "Blocked, and a gray picture handed out instead: the picture copies x (pdq 1).",
        ),
        (verdict(reasons=("a",)), True, "Flagged, and handed out all the same because this policy only watches: a."),
        (
            verdict(reasons=("x couldn't judge",), scored=False),
            False,
            "Handed out without a judgement: x couldn't judge.",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(given: Verdict, flagged: bool, says: str) -> None:
    assert sentence(given, flagged) == says


def test_what_a_policy_says_comes_out_without_its_names() -> None:
    """The policy's own reasons, so that a change of theirs is noticed here."""
    scores = [
        Score(StructureGap.name, 0.688412, 0.577193, 0),
        Score(GalleryPreview.name, 0.91234, 0.9, 4, "the orchard (7)"),
    ]
    mentions = [Mention("Bolto", "bolto", 0, 5, "misspelled", "a robot")]
    said = sentence(verdict("mitigated", reasons=decided(scores, mentions, preset("balanced")).reasons), True)
    assert said == (
        "Flagged and steered elsewhere: the prompt calls up one certain picture, as memorized ones do (score 0.688, "
        "threshold 0.577); on the way it came to look like the orchard (7) (score 0.912, threshold 0.9); the prompt "
        "mentions Bolto (misspelled)."
    )


def test_what_the_balanced_policy_watches_is_explained() -> None:
    assert {detector.name for detector in preset("balanced").detectors} <= set(MEANS)
