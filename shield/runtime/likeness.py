"""How like a protected picture a prediction is, as something that can be differentiated.

The gallery's correlation of the linear preview (shield/hooks/preview.py) is a dot product of linear maps over a norm,
so its slope costs no denoiser, no autoencoder and no feature network.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from shield.errors import MissingSignalError, TraceError
from shield.hooks.forward import Forward
from shield.hooks.preview import Preview, clean_latents, preview_of
from shield.protected.gallery import THUMBNAIL, Gallery


class Likeness:
    """What a pipeline's predictions are compared with. `size`: its pictures' height and width in pixels."""

    def __init__(self, pipe: Any, gallery: Gallery, size: tuple[int, int]) -> None:
        self.pipe, self.gallery, self.size = pipe, gallery, size
        self._preview: Preview | None = None

    def at(self, forward: Forward, row: int) -> Callable[[Tensor], tuple[Tensor, str]]:
        """A function of a prediction (1, ...) of this image at this step: the correlation with the protected picture,
        or its mirror image, that it is most like, as a scalar with a gradient; and the work.

        It raises MissingSignalError where the prediction shows no picture.
        """
        alone = replace(forward, latents=forward.latents[[row]])

        def compared(prediction: Tensor) -> tuple[Tensor, str]:
            if self._preview is None:
                self._preview = preview_of(self.pipe)
            try:
                clean = clean_latents(self.pipe, alone, prediction, self.size)
            except TraceError as error:
                raise MissingSignalError(f"This step shows no picture to compare: {error}") from error
            if not clean.isfinite().all():
                raise MissingSignalError("This step shows no picture to compare: the latents hold NaN.")
            _, work, found = self.gallery.toward(self._preview.pictures(clean.detach())[0])
            return correlation(self._preview.colors(clean.cpu()), torch.from_numpy(found)), work

        return compared


def correlation(colors: Tensor, thumbnail: Tensor) -> Tensor:
    """Of colors (1, H, W, 3) with a unit-length thumbnail (3072,), as shield/protected/gallery.py makes one of a
    picture.
    """
    small = adaptive_avg_pool2d(colors.permute(0, 3, 1, 2), THUMBNAIL)
    centered = (small - small.mean(dim=(2, 3), keepdim=True)).permute(0, 2, 3, 1).flatten()
    return centered @ thumbnail / centered.norm().clamp_min(1e-6)
