"""What a visitor may ask for: one picture, checked. Needs no torch, so that the page is there before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shield.errors import BadRequestError

LONGEST = 1000
MOST_STEPS = 150


@dataclass(frozen=True)
class DrawingRequest:
    """One picture that somebody asked for."""

    prompt: str
    model: str = "testbed"
    policy: str = "balanced"
    seed: int = 0
    steps: int = 25
    guidance_scale: float = 4.0

    def checked(self) -> DrawingRequest:
        """Itself, with its numbers as numbers. Raises BadRequestError."""
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise BadRequestError("A prompt is needed; type what to draw.")
        if len(self.prompt) > LONGEST:
            raise BadRequestError(f"A prompt has at most {LONGEST} characters here; {len(self.prompt)} were given.")
        from shield.runtime.policy import preset

        preset(self.policy)
        return replace(
            self,
            seed=_between(self.seed, 0, 2**63 - 1, "seed"),
            steps=_between(self.steps, 1, MOST_STEPS, "number of steps"),
            guidance_scale=float(_between(self.guidance_scale, 0, 50, "guidance scale", whole=False)),
        )


def _between(value: Any, low: float, high: float, what: str, *, whole: bool = True) -> Any:
    try:
        number = float(value) if not whole else int(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRequestError(f"The {what} is a number; {value!r} was given.") from None
    if not low <= number <= high:
        raise BadRequestError(f"The {what} lies between {low:g} and {high:g}; {number:g} was given.")
    return number
