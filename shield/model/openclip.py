"""A CLIP that open_clip loads: texts and pictures as vectors of one space, for what names don't catch.

Ilharco et al., "OpenCLIP", 2021 (doi 10.5281/zenodo.5143773); Radford et al., ICML 2021 (arXiv 2103.00020).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shield.errors import CheckpointError, WeightsError, first_line
from shield.extras import extras_named
from shield.model.assets import weights_dir
from shield.model.fingerprint import full_sha256
from shield.model.loading import resolved_device

BATCH = 64
CONFIG = "open_clip_config.json"


class OpenClip:
    """`source`: "testbed" (the shipped one), a folder with open_clip_config.json, "NAME:PRETRAINED" as open_clip lists
    them ("ViT-B-32:laion2b_s34b_b79k"; PRETRAINED may be a file), or "hf-hub:OWNER/NAME". Raises WeightsError.
    """

    def __init__(self, source: Path | str, device: str = "cpu") -> None:
        self.source, self.device = str(source), resolved_device(device)
        self._model, self._preprocess, self._tokenizer = _loaded(self.source, self.device)

    @cached_property
    def sha256(self) -> str:
        """Which weights these are."""
        return full_sha256(self._model)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of length 1. What is beyond the tower's context (77 tokens, usually) isn't read."""
        return self._embedded(texts, lambda part: self._model.encode_text(self._tokenizer(part).to(self.device)))

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, D) float32 of length 1."""

        def encode(part: list[Image.Image]) -> torch.Tensor:
            pixels = torch.stack([self._preprocess(picture.convert("RGB")) for picture in part])
            return self._model.encode_image(pixels.to(self.device))

        return self._embedded(pictures, encode)

    def _embedded(self, items: Sequence[Any], encode: Callable[[list[Any]], torch.Tensor]) -> np.ndarray:
        parts = [list(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
        with torch.no_grad():
            rows = [torch.nn.functional.normalize(encode(part).float(), dim=-1).cpu().numpy() for part in parts]
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def _loaded(source: str, device: str) -> tuple[Any, Any, Any]:
    with extras_named():
        import open_clip

    name, _, pretrained = source.partition(":")
    if name == "hf-hub":
        name, pretrained = source, ""
    elif not pretrained or Path(source).exists():
        name, pretrained = f"local-dir:{_folder(source)}", ""
    try:
        model, preprocess = open_clip.create_model_from_pretrained(name, pretrained or None, device=device)
        return model.eval(), preprocess, open_clip.get_tokenizer(name)
    except Exception as error:  # its own, torch's, safetensors' and the hub's: whatever it is, there is no model
        raise WeightsError(f"open_clip can't load {source!r}: {first_line(error)}") from error


def _folder(source: str) -> Path:
    folder = weights_dir() / "testbed" / "openclip" if source == "testbed" else Path(source).expanduser()
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} isn't an OpenCLIP folder: it holds no {CONFIG}.")
    return folder
