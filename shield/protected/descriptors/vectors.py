"""Rows of unit vectors, and the nearest of them to others, from a handful up to millions.

Up to EXACT rows every one is compared. Above, FAISS compares the cells of an inverted file that are nearest to the
query, at one byte a number (Johnson, Douze, Jegou, "Billion-scale similarity search with GPUs", arXiv 1702.08734).
Rows are added and removed in place; cells are made anew only when the rows have become GROWTH times as many.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from shield.errors import GalleryError, reason_of

EXACT = 100_000
GROWTH = 10
PROBES = 24  # cells that are looked into
TRAINED_ON = 40  # rows a cell


class Vectors:
    """Unit vectors (N, D) by position: the row added first has position 0, and removing closes the gap."""

    def __init__(self, width: int, exact: int = EXACT) -> None:
        import faiss

        self.width, self.exact, self._faiss = width, exact, faiss
        self._ids = np.empty(0, np.int64)
        self._next, self._made_for = 0, 0
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(width))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def kind(self) -> str:
        """`exact` or `inverted file`."""
        return "inverted file" if self._made_for else "exact"

    @property
    def megabytes(self) -> float:
        """What the rows take in memory, about."""
        return len(self) * (self.width + 16 if self._made_for else 4 * self.width + 16) / 1e6

    def add(self, rows: np.ndarray) -> None:
        """Adds rows (N, D), float32."""
        if not len(rows):
            return
        ids = np.arange(self._next, self._next + len(rows), dtype=np.int64)
        self._next += len(rows)
        rows = np.ascontiguousarray(rows, np.float32)
        if len(self) + len(rows) > max(self.exact, GROWTH * self._made_for):
            self._make_cells(rows, ids)
        else:
            self._index.add_with_ids(rows, ids)
        self._ids = np.concatenate([self._ids, ids])

    def keep(self, kept: np.ndarray) -> None:
        """Removes the rows for which `kept` (N,) is False, in place."""
        gone = self._ids[~kept]
        if len(gone):
            chosen = self._faiss.IDSelectorArray if self._made_for else self._faiss.IDSelectorBatch
            self._index.remove_ids(chosen(gone))
            self._ids = self._ids[kept]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(cosines, positions), both (Q, k), the nearest first; position -1 where there are fewer rows."""
        queries = np.ascontiguousarray(queries, np.float32)
        scores, ids = self._index.search(queries, k)
        places = np.searchsorted(self._ids, ids) if len(self._ids) else np.zeros_like(ids)
        return scores, np.where(ids < 0, -1, places)

    def _make_cells(self, rows: np.ndarray, ids: np.ndarray) -> None:
        faiss, count = self._faiss, len(self) + len(rows)
        known = self._rows()
        cells = int(4 * math.sqrt(count))
        quantizer = faiss.IndexFlatIP(self.width)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, self.width, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        drawn = np.random.default_rng(0).permutation(count)[: TRAINED_ON * cells]
        index.cp.niter = 8
        index.train(np.concatenate([known[drawn[drawn < len(known)]], rows[drawn[drawn >= len(known)] - len(known)]]))
        index.nprobe = PROBES
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        index.add_with_ids(known, self._ids)
        index.add_with_ids(rows, ids)
        self._index, self._made_for = index, count

    def _rows(self) -> np.ndarray:
        """All rows (N, D), as exactly as they are held."""
        if not len(self):
            return np.empty((0, self.width), np.float32)
        return np.stack([self._index.reconstruct(int(one)) for one in self._ids])

    def save(self, file: Path) -> None:
        """Writes index and ids, each whole or not at all."""
        part = file.with_name(file.name + ".part")
        self._faiss.write_index(self._index, str(part))
        part.replace(file)
        np.savez(file.with_suffix(".npz"), ids=self._ids, next=self._next, made_for=self._made_for)

    @classmethod
    def load(cls, file: Path, width: int, on_disk: bool = False, exact: int = EXACT) -> Vectors:
        """What save wrote; `on_disk` leaves the rows there until they are looked at. Raises GalleryError."""
        made = cls(width, exact)
        flags = made._faiss.IO_FLAG_MMAP if on_disk else 0
        try:
            made._index = made._faiss.read_index(str(file), flags)
            with np.load(file.with_suffix(".npz"), allow_pickle=False) as saved:
                made._ids = saved["ids"].astype(np.int64)
                made._next, made._made_for = int(saved["next"]), int(saved["made_for"])
            if (made._index.ntotal, made._index.d) != (len(made._ids), width):
                raise ValueError(f"it holds {made._index.ntotal} rows of {made._index.d} numbers")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise GalleryError(f"{file} isn't a saved index ({reason_of(error)}); save the gallery again.") from None
        if made._made_for:
            made._index.nprobe = PROBES
        return made
