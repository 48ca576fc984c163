"""Every mitigation alone on the testbed, held out: what it does to flagged works, and to scenes that aren't memorized.

Works of the top two rungs are flagged by the shipped threshold; nothing stands behind the mitigation, so a picture that
it can't help is blocked. Scenes are flagged by a mistake made on purpose: a registry that protects a word of theirs. A
mitigation that needs another prompt gets the proposals of clause_drop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.bench.sheets import sheet
from probes.bench.shield import SHOWN, Left, PictureRequest, asked, blank
from probes.inputs.truth import testbed_alignment
from probes.metrics.second_opinion import AnyOf, rated, sscd_metric
from probes.metrics.statistics import bootstrap_mean
from probes.report.format import earlier, interval, share_by_both
from probes.runs.cost import counted
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from probes.verbs.calibrate_protected import works_gallery
from shield.detectors import StructureGap
from shield.mitigations import MITIGATIONS
from shield.model.loading import load
from shield.protected.concepts import Concept, Concepts
from shield.protected.pictures import open_image
from shield.rewriters import ClauseDrop
from shield.runtime.policy import Policy
from shield.wrapper import Shield

FIRST_SEED = 8600
SCENES = 24
MISTAKE = Concepts([Concept("background", "brand", (), (), "ground")])  # a word of every scene's caption


def bench_mitigations(
    out: Path,
    names: Sequence[str],
    *,
    seeds: int = 2,
    batch_size: int = 32,
    device: str = "auto",
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes mitigations.json and mitigations-works.png; rows of an earlier file of the same setting are kept."""
    bench = _Bench(device, seeds, batch_size)
    setting = {
        "format": 1,
        "model_sha256": Shield(bench.pipe, calibrate="never").model_sha256,
        "seeds": seeds,
        "works": len(bench.works),
        "scenes": SCENES,
    }
    file = out / "mitigations.json"
    rows = earlier(file, setting).get("rows", {})
    out.mkdir(parents=True, exist_ok=True)
    pictures = {"nothing": bench.bare()}
    rows["nothing"] = pictures["nothing"][1]
    for name in names:
        pictures[name] = bench.measured(name)
        rows[name] = pictures[name][1]
        progress(line(name, rows[name]))
        write_json(file, {**setting, "rows": rows})
    bench.sheet({name: made for name, (made, _) in pictures.items()}).save(out / "mitigations-works.png")
    return {**setting, "rows": rows}


class _Bench:
    def __init__(self, device: str, seeds: int, batch_size: int) -> None:
        self.manifest, self.pipe, self.batch_size = load_manifest(), load("testbed", device=device), batch_size
        self.steps, scale = self.manifest.sampling["steps"], self.manifest.sampling["guidance_scale"]
        self.alignment, self.judge, self.gallery = testbed_alignment(), copy_judge(sscd=sscd_metric()), works_gallery()
        self.works = [
            w for w in self.manifest.works("heldout", min_rung=self.manifest.rungs[-2]) if w.memorization == "VM"
        ]
        self.every = AnyOf(self.judge, [open_image(w.file) for w in self.manifest.works() if w.file])
        self.asked = [
            PictureRequest("works", w.id, w.captions[0], FIRST_SEED + k, scale)
            for k in range(seeds)
            for w in self.works
        ]
        self.scenes = [
            PictureRequest("scenes", s.caption, s.caption, FIRST_SEED, scale)
            for s in self.manifest.scenes("heldout")[:SCENES]
        ]

    def bare(self) -> tuple[list[Left], dict[str, Any]]:
        return self._figures(self.pipe, self.pipe)

    def measured(self, name: str) -> tuple[list[Left], dict[str, Any]]:
        policy = Policy((StructureGap(),), (MITIGATIONS[name](),), (ClauseDrop(),), on_copy="report", retries=0)
        gallery = self.gallery if name == "gallery_repulsion" else None
        return self._figures(
            Shield(self.pipe, policy, gallery, calibrate="never"),
            Shield(self.pipe, policy, gallery, concepts=MISTAKE, calibrate="never"),
        )

    def _figures(self, make: Any, mistaken: Any) -> tuple[list[Left], dict[str, Any]]:
        """What came of works and of scenes; evaluations and seconds are of the works."""
        start = time.perf_counter()
        with counted(self.pipe.unet) as spent:
            left = asked(make, self.asked, self.steps, self.batch_size, lambda made: None)
        seconds = time.perf_counter() - start
        shown = [row for row in left if row.picture is not None]
        pictures, items = [row.picture for row in left], [row.request.item for row in left]
        copied = self.every.copied(pictures)
        scenes = asked(mistaken, self.scenes, self.steps, self.batch_size, lambda made: None)
        drawn = [row for row in scenes if row.picture is not None]
        found: dict[str, Any] = {
            "copies": rated(copied, self.every.copied_by_sscd(pictures), items),
            "distance": self._distance(shown),
            "blocked": sum(row.status == "blocked" for row in left),
            "scenes_blocked": len(scenes) - len(drawn),
            "agreement": None,
            "evaluations": spent.evaluations / len(left),
            "seconds": seconds / len(left),
        }
        if drawn:
            agreement = self.alignment.similarity(
                [row.picture for row in drawn if row.picture], [row.request.prompt for row in drawn]
            )
            mean = bootstrap_mean(agreement, [row.request.item for row in drawn])
            found["agreement"] = {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
        return left, found

    def _distance(self, shown: Sequence[Left]) -> float | None:
        """Mean distance of the pictures from their own works."""
        works = {w.id: open_image(w.file) for w in self.works if w.file}
        judged = self.judge.judge(
            [row.picture for row in shown if row.picture], [works[row.request.item] for row in shown]
        )
        scores = [one.scores[self.judge.metrics[0].name] for one in judged]
        return float(np.mean([score for score in scores if score is not None])) if scores else None

    def sheet(self, left: dict[str, list[Left]]) -> Image.Image:
        """The first works on their first noise, a column for each mitigation."""
        rows = [
            [open_image(work.file), *(some[n].picture or blank() for some in left.values())]
            for n, work in enumerate(self.works[:SHOWN])
            if work.file
        ]
        return sheet(rows, [work.captions[0] for work in self.works[:SHOWN]], ["work", *left])


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: copies {row['copies']['share']:.0%}, blocked {row['blocked']} of {row['copies']['n']}, "
        f"{row['evaluations']:.1f} evaluations"
    )


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, a row for each mitigation."""
    lines = [
        "| mitigation | copies that came out | distance | blocked | agreement of scenes flagged by mistake | "
        "scenes blocked | evaluations | time |",
        "|---" * 8 + "|",
    ]
    usual = result["rows"]["nothing"]
    for name, row in result["rows"].items():
        copies, agreement = row["copies"], row["agreement"]
        shown = "" if agreement is None else interval(agreement)
        distance = "" if row["distance"] is None else f"{row['distance']:.3f}"
        lines.append(
            f"| {name} | {share_by_both(copies)} | {distance} "
            f"| {row['blocked']} of {copies['n']} | {shown} | {row['scenes_blocked']} of {result['scenes']} "
            f"| {row['evaluations'] / usual['evaluations']:.2f}x | {row['seconds'] / usual['seconds']:.2f}x |"
        )
    return "\n".join(lines)
