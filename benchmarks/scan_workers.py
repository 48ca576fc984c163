"""One scan on Ray with 1, 2 and 4 workers: prompts a second, efficiency, and the same records to the byte."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.timing import Figure, figure, seconds
from probes.drawing.draw import Sampling
from probes.inputs.prompts import PromptRecord
from probes.runs.folder import Run
from probes.scan.engines import RayActors
from probes.scan.scorer import ScoringConfig
from probes.scan.stream import record_stream, turns_of

BATCH, PROMPTS, REPEATS, WORKERS = 16, 256, 3, (1, 2, 4)


def measure() -> list[Figure]:
    """Loading and starting are left out; efficiency is speed over workers times one worker's."""
    targets = [PromptRecord(f"prompt-{n}", f"a cat and {n} donuts on a blue background") for n in range(PROMPTS)]
    config = ScoringConfig(
        "testbed", ("structure_gap", "noise_gap"), sampling=Sampling(batch_size=BATCH), batch_size=BATCH
    )
    speeds, records = {}, set()
    for workers in WORKERS:
        with RayActors(config, workers) as engine, tempfile.TemporaryDirectory() as folder:
            engine.started(targets[0])
            written: list[bytes] = []

            def work(engine: RayActors = engine, folder: str = folder, written: list[bytes] = written) -> None:
                written.append(scanned(engine, targets, Path(folder)))

            speeds[workers] = [PROMPTS / taken for taken in seconds(work, REPEATS)]
            records.update(written)
    assert len(records) == 1, "another number of workers gave other records"
    found = [figure(f"{workers} workers: prompts a second", values, "1/s") for workers, values in speeds.items()]
    for workers, values in speeds.items():
        share = [value / workers / sorted(speeds[1])[REPEATS // 2] for value in values]
        found.append(figure(f"{workers} workers on {os.cpu_count()} cores: efficiency", share, ""))
    return found


def scanned(engine: RayActors, targets: list[PromptRecord], folder: Path) -> bytes:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with Run.create(place, {"model": "testbed"}, kind="scan") as run:
            for _ in record_stream(run, engine, turns_of(targets, [500], False), BATCH):
                pass
        return (Path(place) / "records.jsonl").read_bytes()
