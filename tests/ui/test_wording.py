"""The verdict in one sentence that needs no glossary."""

import pytest

from shield.detectors import StructureGap
from shield.reasons import Reason
from shield.runtime.policy import decided, preset
from shield.runtime.preview_checks import GalleryPreview
from shield.types import Mention, Score, Verdict
from ui.wording import KEPT_MEMORY, MEANS, sentence

BOLTO = Reason("concept", work="Bolto", detail="leetspeak")
COPY = Reason("copy", "pdq", 1.0, work="x")


def verdict(status: str = "passed", **more) -> Verdict:
    return Verdict(0, "a cat", status, **more)


@pytest.mark.parametrize(
    "given, says",
    [
        (verdict(), "Passed: nothing was flagged, so the shield changed nothing."),
        (
            verdict("blocked", reasons=(BOLTO,)),
            "Blocked, and a gray picture handed out instead: the prompt mentions Bolto (leetspeak).",
        ),
        (
            verdict("mitigated", reasons=(BOLTO, Reason("exhausted"), BOLTO), rewritten_prompt="a dog"),
            "Flagged and drawn as “a dog” instead: the prompt mentions Bolto (leetspeak); nothing that was tried led "
            "away from it.",
        ),
        (
            verdict("mitigated", reasons=(BOLTO,)),
            "Flagged and steered elsewhere: the prompt mentions Bolto (leetspeak).",
        ),
        (verdict("mitigated", reasons=(COPY,)), "Flagged and steered elsewhere: a first attempt copied x (pdq 1.000)."),
        (
            verdict("blocked", reasons=(COPY,)),
            "Blocked, and a gray picture handed out instead: the picture copies x (pdq 1.000).",
        ),
        (
            verdict(reasons=(BOLTO,)),
            "Flagged, and handed out all the same because this policy only watches: the prompt mentions Bolto "
            "(leetspeak).",
        ),
        (
            verdict(reasons=(Reason("unscored", "x"),), scored=False),
            "Handed out without a judgement: x couldn't judge.",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(given: Verdict, says: str) -> None:
    assert sentence(given) == says


def test_what_a_policy_says_comes_out_without_its_names() -> None:
    """The policy's own reasons, so that a change of theirs is noticed here."""
    scores = [
        Score(StructureGap.name, 0.688412, 0.577193, 0),
        Score(GalleryPreview.name, 0.91234, 0.9, 4, "the orchard (7)"),
    ]
    mentions = [Mention("Bolto", "bolto", 0, 5, "misspelled", "a robot")]
    said = sentence(verdict("mitigated", reasons=decided(scores, mentions, preset("balanced")).reasons))
    assert said == (
        "Flagged and steered elsewhere: the prompt calls up one certain picture, as memorized ones do (score 0.688, "
        "threshold 0.577); on the way it came to look like the orchard (7) (score 0.912, threshold 0.9); the prompt "
        "mentions Bolto (misspelled)."
    )


def test_a_memory_that_stayed_is_told_apart_from_what_called_it_up() -> None:
    scores = [Score(KEPT_MEMORY, 2.5, 1.5, 10)]
    reasons = (
        Reason("above_threshold", "structure_gap", 0.9, 0.75, 0),
        *decided(scores, (), preset("balanced")).reasons,
    )
    assert sentence(verdict("mitigated", reasons=reasons)) == (
        "Flagged and steered elsewhere: the prompt calls up one certain picture, as memorized ones do (score 0.9, "
        "threshold 0.75); drawn from another prompt it became that picture all the same (score 2.5, threshold 1.5)."
    )


def test_what_the_balanced_policy_watches_is_explained() -> None:
    assert KEPT_MEMORY in MEANS
    assert {detector.name for detector in preset("balanced").detectors} <= set(MEANS)
