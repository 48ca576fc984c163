"""What early exit saves on the testbed's own captions, and how often it decides otherwise than all seeds do.

Every caption is scanned with every seed once; then the sequential test runs on these scores for many random pilots, on
the prompts outside each pilot.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import tempfile
from pathlib import Path

from benchmarks.timing import Figure
from probes.drawing.draw import Sampling
from probes.runs.folder import Run
from probes.runs.stage_log import Stages
from probes.scan.early_exit import Boundary, calibrated
from probes.scan.scan import scan
from probes.scan.stream import STAGE
from probes.testbed.manifest import load_manifest

SEEDS, ERRORS, BATCH, PILOT, REPEATS = range(500, 508), (0.01, 0.05), 16, 300, 100
# A finished scan of these captions with these seeds, to leave the scan out.
DONE = os.environ.get("SCAN_EARLY_EXIT_RUN")


def measure() -> list[Figure]:
    """Over all captions of works, non-members and scenes: shares of each random pilot's other prompts."""
    with tempfile.TemporaryDirectory() as place:
        run = Run.open(DONE) if DONE else scanned(Path(place))
        groups = itertools.groupby(run.records(), key=lambda record: record["item"])
        scores = [[record["scores"]["structure_gap"] for record in records] for _, records in groups]
        threshold = Stages(run.folder).detail(STAGE)["threshold"]
    found = []
    for error in ERRORS:
        tried = [one_pilot(scores, threshold, error, random.Random(seed)) for seed in range(REPEATS)]
        name = f"{len(scores)} prompts, up to {len(SEEDS)} seeds, error {error:g}, pilot {PILOT}"
        for place, (what, unit) in enumerate(
            {
                "seeds a prompt": "seeds",
                "stopped at the first seed": "",
                "decided otherwise than by all seeds": "",
            }.items()
        ):
            values = [one[place] for one in tried]
            mean = sum(values) / len(values)
            found.append(Figure(f"{name}: {what}, mean", mean, min(values), max(values), unit, len(values)))
    return found


def one_pilot(
    scores: list[list[float]], threshold: float, error: float, choice: random.Random
) -> tuple[float, float, float]:
    """Of the prompts outside the pilot: seeds each, share stopped at the first seed, share decided otherwise."""
    order = choice.sample(scores, len(scores))
    boundary = calibrated(order[:PILOT], threshold, error)
    others = order[PILOT:]
    used = [stop(boundary, one) for one in others]
    wrong = sum(boundary.decision(one[:n]) != boundary.decision(one) for one, n in zip(others, used, strict=True))
    return sum(used) / len(others), used.count(1) / len(others), wrong / len(others)


def stop(boundary: Boundary, scores: list[float]) -> int:
    return next(n for n in range(1, len(scores) + 1) if boundary.decision(scores[:n]) is not None)


def scanned(folder: Path) -> Run:
    manifest = load_manifest()
    captions = [caption for item in manifest.items for caption in item.captions]
    captions += [scene.caption for scene in manifest.scenes()]
    file = folder / "captions.jsonl"
    lines = [json.dumps({"prompt": caption}) + "\n" for caption in dict.fromkeys(captions)]
    file.write_text("".join(lines), encoding="utf-8")
    sampling = Sampling(manifest.sampling["steps"], manifest.sampling["guidance_scale"], BATCH)
    done = scan(file, folder / "run", sampling=sampling, seeds=SEEDS, show_progress=False)
    return Run.open(done.folder)
