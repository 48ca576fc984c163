"""The module that some pipelines run before the denoiser with the same text (ControlNet), followed along.

It reads the prompt too, so a flagged image's other conditioning has to reach it as well: its inputs are replaced like
the denoiser's, and when the denoiser runs again for some rows, it runs again for them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from shield.hooks.calls import asked_about, asked_at, picked_rows
from shield.model.conditioning import Conditioning, written
from shield.model.families import Family


class Companion:
    """Keeps the latest call of a family's companion module."""

    def __init__(self, family: Family, is_stacked: Callable[[dict[str, Any]], bool]) -> None:
        self.family, self.is_stacked = family, is_stacked
        self._module: nn.Module | None = None
        self._named: dict[str, Any] = {}

    def seen(self, module: nn.Module, named: dict[str, Any]) -> None:
        """Remembers a call until the next one."""
        self._module, self._named = module, named

    def batch(self, named: dict[str, Any]) -> int:
        """How many images a call is for. In guess mode it gets the conditional rows alone."""
        rows = len(named[self.family.sample])
        return rows // 2 if self.is_stacked(named) and not named.get("guess_mode") else rows

    def residuals(
        self, rows: Sequence[int], conditioning: Conditioning, timestep: float | None, latents: Tensor | None = None
    ) -> dict[str, Any]:
        """What the denoiser is given for these images under another conditioning, at another timestep, or with other
        latents; nothing without a companion.
        """
        if self._module is None:
            return {}
        total, named = len(self._named[self.family.sample]), self._named
        start = total - self.batch(named)
        picked = {k: picked_rows(v, [start + r for r in rows], total, k) for k, v in named.items()}
        asked = asked_about(asked_at(picked, self.family, timestep), self.family, latents)
        outputs = self._module(**written(self.family, asked, conditioning))
        return dict(zip(self.family.residuals, outputs, strict=True))
