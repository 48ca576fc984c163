"""Whether a picture shows what its caption says, by OpenCLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from probes.metrics.copies import rgb
from shield.errors import CheckpointError


class Alignment:
    """Cosine between OpenCLIP's embeddings of a picture and a caption, and whether the right caption ranks first.

    The folder is one that ``open_clip`` itself loads (open_clip_config.json and weights). Cosines of two models can't
    be compared; of one model they are a measure of loss through pruning or shielding, not of quality.
    """

    def __init__(self, openclip: Path | str, *, device: str = "cpu", batch: int = 64) -> None:
        self.folder = Path(openclip)
        self.device = device
        self.batch = batch
        if not (self.folder / "open_clip_config.json").is_file():
            raise CheckpointError(f"{self.folder} is not an OpenCLIP folder: it has no open_clip_config.json.")

    @cached_property
    def _model(self) -> tuple[Any, Any, Any]:
        import open_clip

        name = f"local-dir:{self.folder}"
        model, preprocess = open_clip.create_model_from_pretrained(name, device=self.device)
        return model.eval(), preprocess, open_clip.get_tokenizer(name)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(B, D), length 1."""
        import torch

        model, preprocess, _ = self._model
        rows = [preprocess(rgb(picture)) for picture in pictures]
        return self._embedded(rows, lambda chunk: model.encode_image(torch.stack(chunk).to(self.device)))

    def embed_captions(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """(B, D), length 1."""
        model, _, tokenizer = self._model
        return self._embedded(list(captions), lambda chunk: model.encode_text(tokenizer(chunk).to(self.device)))

    def _embedded(self, rows: list[Any], encode: Any) -> NDArray[np.float32]:
        import torch

        if not rows:
            return np.empty((0, 0), dtype=np.float32)
        with torch.inference_mode():
            parts = [
                torch.nn.functional.normalize(encode(rows[start : start + self.batch]).float(), dim=-1)
                for start in range(0, len(rows), self.batch)
            ]
        return torch.cat(parts).cpu().numpy()

    def similarity(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> NDArray[np.float64]:
        """(B,) cosine of picture i with caption i, -1 to 1."""
        if len(pictures) != len(captions):
            raise ValueError(f"There are {len(pictures)} pictures and {len(captions)} captions.")
        if not pictures:
            return np.empty(0)
        return (self.embed_pictures(pictures).astype(np.float64) * self.embed_captions(captions)).sum(axis=1)

    def retrieval(
        self, pictures: Sequence[Image.Image], captions: Sequence[str], distractors: Sequence[Sequence[str]]
    ) -> NDArray[np.int64]:
        """(B,) rank of each picture's caption among itself and its distractors: 1 is found, ties count against it.

        A distractor equal to the caption is left out, so that a caption can't compete with itself.
        """
        if not len(pictures) == len(captions) == len(distractors):
            raise ValueError(
                f"There are {len(pictures)} pictures, {len(captions)} captions and {len(distractors)} "
                "sets of distractors."
            )
        if not pictures:
            return np.empty(0, dtype=np.int64)
        texts = list(dict.fromkeys([*captions, *(text for row in distractors for text in row)]))
        place = {text: index for index, text in enumerate(texts)}
        scores = self.embed_pictures(pictures) @ self.embed_captions(texts).T
        ranks = [
            1 + sum(bool(row[place[text]] >= row[place[own]]) for text in set(others) - {own})
            for row, own, others in zip(scores, captions, distractors, strict=True)
        ]
        return np.array(ranks, dtype=np.int64)
