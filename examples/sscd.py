"""A finished run's pictures beside their works by SSCD, the score that published figures are in.

    python examples/sscd.py OUT/attacked sscd_disc_mixup.torchscript.pt

For each stage (and number of search steps): the median score, the share of pictures above 0.7 with its 95 % interval
over works, and how many couldn't be scored. ``--csv`` writes every picture's score. Any run folder that holds pictures
of works will do: audit, prune, attack, harden, scan --pictures.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from probes.inputs.pictures import reference_picture
from probes.metrics import Sscd, rate_interval
from probes.metrics.sscd import CONVENTIONS
from probes.model.batches import in_batches
from probes.runs.folder import Run
from shield.errors import ShieldError


def scored(folder: Path, metric: Sscd) -> Iterator[dict[str, Any]]:
    """The run's records that have a picture and whose work has one too, each with its "sscd" (None: no score)."""
    every = [record for record in Run.open(folder).records() if record.get("picture")]
    works = {record["item"]: record["picture"] for record in every if record["stage"] == "work"}
    drawn = [record for record in every if record["stage"] != "work" and record["item"] in works]

    def features(pictures: list[str]) -> list[np.ndarray]:
        return list(metric.features([reference_picture(folder / picture) for picture in pictures]))

    of_works = dict(zip(works, in_batches(features, list(works.values()), 16), strict=True))
    for record, found in zip(drawn, in_batches(features, [record["picture"] for record in drawn], 16), strict=True):
        value = float(metric.compare(found[None], of_works[record["item"]][None])[0])
        yield {**record, "sscd": value if np.isfinite(value) else None}


def main() -> None:
    parser = argparse.ArgumentParser(description="SSCD of a run's pictures and their works.")
    parser.add_argument("run", type=Path, help="run folder with pictures of works")
    parser.add_argument("weights", type=Path, help="Meta's TorchScript file")
    parser.add_argument("--convention", choices=CONVENTIONS, default="mixup", help="which of the two the file is")
    parser.add_argument("--csv", type=Path, help="also every picture's score")
    asked = parser.parse_args()
    metric = Sscd(asked.weights, asked.convention)
    try:
        records = list(scored(asked.run, metric))
    except ShieldError as error:
        raise SystemExit(str(error)) from error
    if not records:
        raise SystemExit(f"{asked.run} holds no picture of a work that has one itself.")
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        steps = record.get("attack_steps")
        groups[record["stage"] if steps is None else f"{record['stage']}, {steps} steps"].append(record)
    for name, some in groups.items():
        values = [record["sscd"] for record in some]
        copied = rate_interval(
            [None if value is None else value > metric.threshold for value in values],
            [record["item"] for record in some],
        )
        usual = median([value for value in values if value is not None] or [float("nan")])
        print(
            f"{name}: median {usual:.3f}, above {metric.threshold:g}: {copied.value:.1%} ({copied.low:.1%} to "
            f"{copied.high:.1%}), pictures {copied.n}, not scored {values.count(None)}"
        )
    if asked.csv:
        with open(asked.csv, "w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(
                stream, ["stage", "item", "seed", "attack_steps", "picture", "sscd"], extrasaction="ignore"
            )
            table.writeheader()
            table.writerows(records)


if __name__ == "__main__":
    main()
