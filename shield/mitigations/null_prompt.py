"""Guide with the empty prompt: nothing of the request is left, so nothing that its words memorized is either.

The last resort before a blank picture. With guidance on it costs nothing: the unconditional prediction is at hand.
What a model draws unasked can be a memorized work too, and no detector that compares with the empty prompt can tell:
where the policy blocks what can't be judged (`strict`) a blank picture takes its place, and elsewhere the verdict says
that it wasn't judged, unless a gallery looked at the picture.
"""

from dataclasses import dataclass
from typing import ClassVar

from shield.model.conditioning import Conditioning
from shield.types import MitigationContext


@dataclass(frozen=True)
class NullPrompt:
    """The picture is one that the model makes unasked. It can still be a memorized one, if the model has those
    unasked.
    """

    name: ClassVar[str] = "null_prompt"
    needs_prompt: ClassVar[bool] = False

    def conditioned(self, context: MitigationContext) -> Conditioning:
        """The empty prompt's row."""
        return context.null
