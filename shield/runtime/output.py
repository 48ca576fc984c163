"""The pictures in a pipeline's output: taken out to be checked, blanked, and put back in the same form."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from shield.hooks.preview import as_pictures, decoded
from shield.model.autoencoders import unpacked
from shield.types import Verdict

GRAY = 0.5


class VerdictTuple(tuple):
    """What a pipeline returns with `return_dict=False`, and the verdicts beside it."""

    verdicts: list[Verdict]


def images_of(output: Any) -> Any:
    """The pictures of a pipeline's output in whatever form they have."""
    return output[0] if isinstance(output, tuple) else output.images


def with_verdicts(output: Any, images: Any, verdicts: list[Verdict]) -> Any:
    """The same output with these pictures, and with `.verdicts`."""
    if isinstance(output, tuple):
        output = VerdictTuple((images, *output[1:]))
    else:
        output.images = images
    output.verdicts = verdicts
    return output


def with_row(output: Any, row: int, source: Any, place: int) -> Any:
    """The output with everything that it says about one picture, beside the picture itself, taken from what `source`
    says about the one at `place`.

    Fields with an entry for each picture count (`nsfw_content_detected`); others stay.
    """
    counts = len(images_of(output)), len(images_of(source))
    if isinstance(output, tuple):
        others = zip(output[1:], source[1:], strict=True)
        return (output[0], *(_with_entry(held, row, other, place, counts) for held, other in others))
    for name in list(output.keys()):  # a ModelOutput leaves out what is None
        if name != "images":
            setattr(output, name, _with_entry(output[name], row, source.get(name), place, counts))
    return output


def _with_entry(held: Any, row: int, source: Any, place: int, counts: tuple[int, int]) -> Any:
    kinds = (list, tuple, np.ndarray, torch.Tensor)
    pairs = zip((held, source), counts, strict=True)
    if not all(isinstance(field, kinds) and len(field) == count for field, count in pairs):
        return held
    if isinstance(held, tuple):
        return tuple(replaced(list(held), row, source, place))
    return replaced(held, row, source, place)


def pil_images(pipe: Any, images: Any, output_type: str, size: tuple[int, int]) -> list[Image.Image]:
    """The same pictures as PIL pictures, for looking at. Latents, packed ones of pictures of this height and width, are
    decoded.
    """
    if output_type == "pil":
        return list(images)
    if output_type == "latent":
        return as_pictures(decoded(pipe, unpacked(pipe, images, size)).permute(0, 2, 3, 1))
    if isinstance(images, torch.Tensor):
        images = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return as_pictures(torch.from_numpy(images))


def replaced(images: Any, index: int, source: Any, place: int) -> Any:
    """The pictures with one replaced by `source[place]`; the others are the same objects or bits."""
    if isinstance(images, list):
        return [source[place] if i == index else image for i, image in enumerate(images)]
    changed = images.copy() if isinstance(images, np.ndarray) else images.clone()
    changed[index] = source[place]
    return changed


def blanked(images: Any, index: int) -> Any:
    """The pictures with one replaced by plain gray (zeros for latents); the others are the same objects or bits."""
    if isinstance(images, list):
        gray = (round(255 * GRAY),) * len(images[index].getbands())
        blank = Image.new(images[index].mode, images[index].size, gray if len(gray) > 1 else gray[0])
        return [blank if i == index else image for i, image in enumerate(images)]
    changed = images.copy() if isinstance(images, np.ndarray) else images.clone()
    is_latent = isinstance(images, torch.Tensor) and (images.ndim != 4 or images.shape[1] != 3)
    changed[index] = 0.0 if is_latent else GRAY
    return changed
