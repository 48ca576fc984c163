"""Push the picture away from the protected one that it is becoming, and guide it less while it is near.

Chen, Liu, Xu, "Towards Memorization-Free Diffusion Models" (AMG), CVPR 2024 (arXiv 2404.00922): while a picture is
similar to its nearest training picture, guidance is lowered in proportion to the similarity (despecification) and the
gradient of the similarity is subtracted (dissimilarity), at every step. Theirs decodes the step, asks a search service
over the training set, and goes backward through the autoencoder and a feature network. Ours compares with the gallery
of protected pictures by its own correlation, on the linear preview of the clean latent, so that a gradient is a few
matrix products; and instead of a scale that has to be tuned, the guided prediction is moved along the gradient until
its preview correlates no more than `limit`. No denoiser calls.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.types import MitigationContext

ROUNDS, HALVINGS = 6, 10


@dataclass(frozen=True)
class GalleryRepulsion:
    """The guided prediction's preview correlates with no protected picture more than about `limit`.

    `despecify` also lowers the guidance scale, to 1 at a correlation of 1 / 2. Needs a gallery, and sees no more than a
    32 x 32 thumbnail does: fine detail comes through.
    """

    limit: float = 0.3
    despecify: bool = True

    name: ClassVar[str] = "gallery_repulsion"
    needs_prompt: ClassVar[bool] = False

    def predicted(self, context: MitigationContext) -> Tensor:
        """c' with u + g (c' - u) = the guided prediction, moved. Raises MissingSignalError without a gallery."""
        if context.likeness is None:
            raise MissingSignalError("gallery_repulsion needs a gallery; give the shield one.")
        cond = context.noise_cond.detach().float()
        if context.noise_uncond is None:
            return self._moved(context, cond).to(context.noise_cond)
        uncond, scale = context.noise_uncond.detach().float(), context.guidance_scale
        guided = uncond + self._scale(context, uncond + scale * (cond - uncond)) * (cond - uncond)
        return (uncond + (self._moved(context, guided) - uncond) / scale).to(context.noise_cond)

    def _scale(self, context: MitigationContext, guided: Tensor) -> float:
        """The guidance scale that is left."""
        assert context.likeness is not None
        if not self.despecify or context.guidance_scale <= 1.0:
            return context.guidance_scale
        similar = min(max(2.0 * float(context.likeness(guided)[0]), 0.0), 1.0)
        return 1.0 + (context.guidance_scale - 1.0) * (1.0 - similar)

    def _moved(self, context: MitigationContext, guided: Tensor) -> Tensor:
        """Down the slope of the correlation to the limit, or as near as ROUNDS of Newton's steps come."""
        assert context.likeness is not None
        with torch.inference_mode(False), torch.enable_grad():
            moved = guided.clone()
            for _ in range(ROUNDS):
                moved = moved.detach().requires_grad_(True)
                similar, work = context.likeness(moved)
                if float(similar.detach()) <= self.limit:
                    break
                context.memory.setdefault("works", set()).add(work)
                (slope,) = torch.autograd.grad(similar, [moved])
                way = (similar.detach() - self.limit) * slope / slope.pow(2).sum().clamp_min(1e-12)
                moved = moved.detach() - self._enough(context, moved.detach(), way) * way
        return moved.detach()

    def _enough(self, context: MitigationContext, start: Tensor, way: Tensor) -> float:
        """How much of the way is needed: the least that reaches the limit, or all of it."""
        assert context.likeness is not None
        short, far = 0.0, 1.0
        if float(context.likeness(start - way)[0]) > self.limit:
            return far
        for _ in range(HALVINGS):
            middle = (short + far) / 2
            above = float(context.likeness(start - middle * way)[0]) > self.limit
            short, far = (middle, far) if above else (short, middle)
        return far
