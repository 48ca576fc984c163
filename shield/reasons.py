"""Why a verdict is what it is: a reason as data, and the one place that puts it into words."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

FlagKind = Literal["above_threshold", "concept", "copy", "given_copy"]
OtherKind = Literal[
    "near",
    "exhausted",
    "unsteered",
    "unscored",
    "unreadable",
    "empty_prompt",
    "unchecked",
    "prompt_embeddings",
    "embeddings",
    "no_gallery",
    "numbers",
    "incomparable",
    "learned_words",
    "foreign_processor",
    "unfinished",
    "not_noise",
    "latents_show",
    "callback",
    "step_replaced",
    "latents_changed",
    "denoiser_missed",
    "parts_exchanged",
    "arguments_exchanged",
    "step_missed",
    "not_decoded",
    "scheduler_memory",
    "embeddings_exchanged",
    "argument_changed",
]
ReasonKind = FlagKind | OtherKind
FLAGS: frozenset[str] = frozenset(get_args(FlagKind))

# Kind -> its sentence. In braces: fields of Reason, and what `describe` makes of several of them.
SENTENCES: dict[ReasonKind, str] = {
    # Something was found: FLAGS.
    "above_threshold": "{detector}{of} {value:.4g} is above {threshold:.4g}{late}",
    "concept": "the prompt mentions {work} ({how})",
    "copy": "the picture copies {work} ({detector} {value:.3f})",
    "given_copy": "given picture {detail} copies {work} ({detector} {value:.3f})",
    # What is no flag, but worth knowing.
    "near": "the picture is near {work} ({detector} {value:.3f}), but no copy",
    # An image that was flagged and couldn't be helped.
    "exhausted": "no mitigation passed the detectors",
    "unsteered": "nothing could be done about it: the steps that draw it weren't seen",
    # A detector or a comparison couldn't judge the image.
    "unscored": "{detector} couldn't judge{because}",
    "unreadable": "{detail}",  # why no step under this scheduler can be judged
    "empty_prompt": "the prompt is empty, so no prediction without it is left to compare with",
    "unchecked": "what {detail} draws was compared with nothing: there is no gallery",
    # Something came into the call that can't be verified (shield/hooks/ways_in.py, shield/runtime/blind_spots.py).
    "prompt_embeddings": "the prompt came as embeddings, which can't be read",
    "embeddings": "embeddings were given ({detail}), which can't be read",
    "no_gallery": "there is no gallery to compare what was given with ({detail})",
    "numbers": "a picture came in as numbers ({detail}), which can't be compared",
    "incomparable": "given picture {detail} can't be compared with the gallery",
    "learned_words": "the prompt has learned words ({detail}), whose meaning can't be read",
    "foreign_processor": "attention runs through {detail}, which isn't one of diffusers' own processors",
    "unfinished": "the picture leaves before it is finished (denoising_end)",
    "not_noise": "the latents to start from aren't plain noise",
    "latents_show": "the latents were given for a start under less than all the noise, where they show through",
    "callback": "a callback changed the {detail}{after}",
    # The chain from what was judged to the picture is broken (shield/hooks/custody.py).
    "step_replaced": "{detail}.step was replaced, so nobody knows what it draws",
    "latents_changed": "something other than the scheduler changed the latents{after} (exchanged under way)",
    "denoiser_missed": "the denoiser wasn't seen to run{after} (exchanged under way)",
    "parts_exchanged": "the denoiser or the scheduler was exchanged under way",
    "arguments_exchanged": "the denoiser's arguments were exchanged on their way",
    "step_missed": "the scheduler's step wasn't seen: it was exchanged under way",
    "not_decoded": "the picture wasn't decoded by the pipeline's autoencoder: it was exchanged under way",
    "scheduler_memory": "what the scheduler remembers of earlier steps was exchanged under way",
    "embeddings_exchanged": "the prompt's embeddings were exchanged under way",
    "argument_changed": "the denoiser's {detail} changed under way",
}


@dataclass(frozen=True)
class Reason:
    """One reason of a verdict; `str()` is its sentence.

    Args:
        kind: One of SENTENCES; the comments there group them.
        detector: The detector, or the gallery's metric, that gave `value`, or that couldn't judge.
        value: Its score, or the similarity by which a concept was found.
        threshold: The score's threshold.
        step: The denoising step that it was seen at or after, counted from 0; sentences count from 1.
        work: The protected work or concept that it is about.
        detail: What else the sentence names: an argument, words, a class, how a concept was found.
    """

    kind: ReasonKind
    detector: str | None = None
    value: float | None = None
    threshold: float | None = None
    step: int | None = None
    work: str | None = None
    detail: str | None = None

    def __str__(self) -> str:
        return describe(self)

    @property
    def is_flag(self) -> bool:
        """Whether it says that something was found, rather than that something couldn't be judged or helped."""
        return self.kind in FLAGS

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the sentence as `text`."""
        return {"kind": self.kind, "text": describe(self), **asdict(self)}


def describe(reason: Reason) -> str:
    """A reason as a sentence, without its capital letter and full stop."""
    at = "" if reason.step is None else f"step {reason.step + 1}"
    of = "" if reason.work is None else f" of {reason.work}" + (at and f" at {at}")
    how = reason.detail if reason.value is None else f"{reason.detail}, {reason.value:.3f}"
    because = "" if reason.detail is None else f": {reason.detail}"
    late = f" at {at}" if reason.step and not of else ""
    said = {"of": of, "after": at and f" after {at}", "how": how, "because": because, "late": late}
    return SENTENCES[reason.kind].format(**asdict(reason), **said)
