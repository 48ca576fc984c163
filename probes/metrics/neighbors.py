"""The reference pictures nearest to a picture, looked up in a FAISS index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from probes.metrics.copies import Metric


@dataclass(frozen=True)
class Neighbor:
    """A reference picture's name and the metric's score for it."""

    id: str
    score: float


class ReferenceIndex:
    """Finds the references most like a picture among thousands.

    FAISS ranks by Euclidean distance of the metric's features (for features of length 1 that is the order of the
    cosine); the ``rerank`` best are then compared by the metric itself, because tiled L2 and PDQ rank by something
    else.
    """

    def __init__(self, pictures: Mapping[str, Image.Image], metric: Metric, *, rerank: int = 32) -> None:
        import faiss

        if not pictures:
            raise ValueError("An index needs at least one picture.")
        self.ids = list(pictures)
        self.metric = metric
        self.rerank = rerank
        self._features = metric.features(list(pictures.values()))
        flat = self._features.reshape(len(self.ids), -1)
        self._index: Any = faiss.IndexFlatL2(flat.shape[1])
        self._index.add(np.ascontiguousarray(np.nan_to_num(flat), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, pictures: Sequence[Image.Image], k: int = 1) -> list[list[Neighbor]]:
        """For each picture its ``k`` most copy-like references, best first; those the metric can't score come last."""
        if not pictures:
            return []
        features = self.metric.features(pictures)
        flat = np.ascontiguousarray(np.nan_to_num(features.reshape(len(pictures), -1)), dtype=np.float32)
        _, found = self._index.search(flat, min(len(self), max(k, self.rerank)))
        return [self._ranked(row, candidates)[:k] for row, candidates in zip(features, found, strict=True)]

    def _ranked(self, row: np.ndarray, candidates: np.ndarray) -> list[Neighbor]:
        others = self._features[candidates]
        scores = self.metric.compare(np.broadcast_to(row, others.shape), others)
        # nan sorts last in either direction.
        order = np.argsort(-scores if self.metric.higher_is_copy else scores, kind="stable")
        return [Neighbor(self.ids[candidates[i]], float(scores[i])) for i in order]
