"""Whether a memory is still there in a picture that was mitigated because of it.

What a memorized prompt predicts at its first step is the memorized picture (shield/detectors/kept_structure.py). A
mitigation gives the image another prompt, and a detector passes that one; but the rewritten prompt may still name what
the memory hangs on, as a brand does that has one layout for all of its products. So on the way the picture is compared
with what the flagged prompt predicted. Another picture has nothing in common with it, whatever the checkpoint, so that
one limit serves all of them, and nothing has to be calibrated. Costs no denoiser call. Not in the literature.
"""

from collections.abc import Iterable, Sequence

from shield.detectors import KeptStructure
from shield.hooks.forward import Forward
from shield.hooks.recording import record
from shield.hooks.steps import step_at, steps_of
from shield.mitigations import NullPrompt
from shield.runtime.call import CallState, ImageState
from shield.runtime.trajectory import USUAL_POINTS
from shield.signals import Signals
from shield.types import Score, Step, Trace

NAME = "kept_memory"
POINT = USUAL_POINTS[-1]
LIMIT = 1.5  # -log(1 - cosine): what the testbed's dev split shows is in docs/bench/kept-memory.json
KEPT = KeptStructure(first_k=2)


class Remains:
    """What the flagged prompts of one call predicted first, by image."""

    def __init__(self, call: CallState) -> None:
        self.call = call
        self._flagged: dict[int, Step] = {}

    def keep(self, forward: Forward) -> None:
        """Keeps the first step's predictions of the images that got another conditioning because of a detector.

        Nothing is kept of calls that start from a picture, whose structure is wanted.
        """
        images = [image for image in self._steered(self.call.images) if self._is_remembered(image)]
        if images and not self.call.plan.from_picture:
            step = self._recorded(forward)
            self._flagged = {image.row: step.rows([image.row]) for image in images}

    def is_due(self, index: int) -> bool:
        """Whether pictures are compared at this step."""
        return bool(self._flagged) and index > 0 and index == step_at(POINT, steps_of(self.call.pipe))

    def scores(self, forward: Forward) -> list[tuple[ImageState, Sequence[Score]]]:
        """Writes down how much of its memory each mitigated image's prediction still shows, and returns it."""
        step = self._recorded(forward)
        images = [image for image in self._steered(self.call.images) if image.row in self._flagged]
        for image in images:
            value = float(KEPT.score(Trace([self._flagged[image.row], step.rows([image.row])])))
            image.scores.append(Score(NAME, value, LIMIT, forward.index))
        return [(image, image.scores[-1:]) for image in images]

    def _recorded(self, forward: Forward) -> Step:
        return record(forward, Signals.named(KEPT.needs), self.call.family.packed)

    def _is_remembered(self, image: ImageState) -> bool:
        policy = self.call.policy
        names = {NAME, *(one.name for one in policy.detectors), *(look.name for look in policy.followed)}
        return any(reason.kind == "above_threshold" and reason.detector in names for reason in image.reasons)

    @staticmethod
    def _steered(images: Iterable[ImageState]) -> list[ImageState]:
        """Those that have another prompt than their own; the empty one has none to be wrong about."""
        return [
            image
            for image in images
            if image.action == "mitigate" and image.swap is not None and not isinstance(image.mitigation, NullPrompt)
        ]
