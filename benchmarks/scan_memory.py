"""Resident memory of a scan against the number of prompts: flat, up to 100,000 synthetic ones, tiny random model.

With a denoiser that costs next to nothing the same run also says what everything else costs: reading, encoding, scoring
and writing, and how much disk a record takes.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.timing import Figure, figure
from probes.drawing.draw import Sampling
from probes.scan.scan import ExecutionConfig, scan
from tests.tiny import tiny_sd

PROMPTS = int(os.environ.get("SCAN_MEMORY_PROMPTS", "100000"))
BATCH, MARKS = 64, (0.01, 0.1, 0.2, 0.5, 1.0)


def measure() -> list[Figure]:
    """Memory when so many prompts were scored, and how much it grew from a tenth of them to all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tiny_sd("epsilon").save_pretrained(folder / "model")
        with open(folder / "prompts.txt", "w", encoding="utf-8") as file:
            file.writelines(f"cat {n}\n" for n in range(PROMPTS))
        start = time.perf_counter()
        with PeakMemory(folder / "run" / "records.jsonl") as watched:
            scan(
                folder / "prompts.txt",
                folder / "run",
                model=str(folder / "model"),
                sampling=Sampling(3, 5.0, BATCH),
                execution=ExecutionConfig(batch_size=BATCH),
                device="cpu",
                show_progress=False,
            )
        taken = time.perf_counter() - start
        size, table = ((folder / "run" / name).stat().st_size for name in ("records.jsonl", "results.parquet"))
    curve = [(written / size * PROMPTS, rss) for written, rss in watched.samples if written]
    reached = [next(((n, rss) for n, rss in curve if n >= mark * PROMPTS * 0.999), curve[-1]) for mark in MARKS]
    found = [figure(f"resident memory at {n:,.0f} prompts", [rss], "MB") for n, rss in reached]
    growth = reached[-1][1] - reached[1][1]
    found.append(figure(f"growth from {PROMPTS // 10:,} to {PROMPTS:,} prompts", [growth], "MB"))
    peak = max(rss for _, rss in watched.samples) - reached[-1][1]
    found.append(figure("more while summary and table are written, 10,000 rows at a time", [peak], "MB"))
    found.append(figure("records.jsonl: a record", [size / PROMPTS], "bytes"))
    found.append(figure("results.parquet: a record", [table / PROMPTS], "bytes"))
    found.append(figure("prompts a second, next to no denoiser, one process", [PROMPTS / taken], "1/s"))
    return found


class PeakMemory:
    """Samples (bytes written, resident MB) twice a second while the block runs, and once after it."""

    def __init__(self, file: Path) -> None:
        self.samples: list[tuple[int, float]] = []
        self._file, self._over = file, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.samples.append(self._sample())

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.samples.append(self._sample())

    def _sample(self) -> tuple[int, float]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        written = self._file.stat().st_size if self._file.exists() else 0
        return written, pages * os.sysconf("SC_PAGE_SIZE") / 2**20
