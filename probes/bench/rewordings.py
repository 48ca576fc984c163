"""Copies that leave when memorized captions are reworded, by where the detectors look, and benign captions flagged.

Every rewording is scored as far as the last point of the schedule, which takes a few steps. Drawn to the end are those
that the first step or both looks let through, and of the others a random share, which count for as many as they
stand for: so copies that leave `structure_gap` are counted, and copies that the bare model makes are estimated. Scores
and pictures are kept by part, so that a measurement goes on where it ended.

Negatives are captions of matched non-members in the same templates. One that is flagged and turns out to draw a
work is no false alarm, and is counted apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.bench.caption_templates import REWORDINGS
from probes.drawing.trajectories import looks_for
from probes.metrics.second_opinion import AnyOf, sscd_metric
from probes.metrics.statistics import Interval, rate_interval, ratio_interval
from probes.model.generate import generate
from probes.report.format import Figures, earlier, share
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import Item, load_manifest
from probes.testbed.negatives import negative_captions
from shield.calibration.detectors import NegativeSampling
from shield.calibration.trajectories import drawn_as_far, scores_in, settings_of
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError
from shield.model.loading import load
from shield.protected.gallery import Gallery
from shield.protected.pictures import open_image
from shield.runtime.settings import models_of
from shield.runtime.trajectory import USUAL_POINTS
from shield.thresholds import found
from shield.wrapper import Shield

FIRST_SEED, PART = 9100, 32
WAYS = ("structure_gap, first step", "noise_gap, first step", "structure_gap, then kept_structure")
SURE = (WAYS[0], WAYS[2])  # whatever one of these lets through is drawn
Row = dict[str, Any]
"""A prompt with its scores by look, `flagged` by way, `weight` (0: not drawn), `copied`, `copied_by_sscd` and `seen` by
the gallery.
"""
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """A rewording of a work's caption, or of a benign one's (`work` is then the caption)."""

    work: str
    kind: str
    prompt: str
    seed: int


def bench_rewordings(
    out: Path,
    *,
    parts: Path,
    split: str = "heldout",
    works: int | None = None,
    sample: float = 0.5,
    device: str = "auto",
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Measures what isn't in ``parts`` yet and writes rewordings.json into ``out``; the other split's figures are kept.

    Args:
        out: Folder for the figures.
        parts: Folder for scores and judgements, from which the next call goes on.
        split: "dev" or "heldout": works, templates and negatives.
        works: How many of the memorized works, at random; all by default.
        sample: Which share of the flagged rewordings is drawn to the end.
        device: Where the model runs.
        progress: Called with (what, done, total).

    Raises:
        BadRequestError: A number is out of its range, or there is no such split.
    """
    if split not in REWORDINGS or not 0.0 < sample <= 1.0 or (works is not None and works < 1):
        raise BadRequestError(
            f"A split of {', '.join(REWORDINGS)}, one work or more and a share above 0 up to 1 are needed; "
            f"{split}, {works} and {sample:g} were given."
        )
    bench = _Bench(split, works, sample, device, parts, progress or (lambda what, done, total: None))
    setting = {"format": 1, "model_sha256": bench.shield.model_sha256}
    file = out / "rewordings.json"
    made = {**setting, "splits": {**earlier(file, setting).get("splits", {}), split: bench.measured()}}
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, made)
    return made


def rewordings_of(split: str, works: int | None = None) -> list[Asked]:
    """Every template on every memorized work of the split (on so many of them), each on a noise of its own."""
    manifest = load_manifest()
    kept = [w for w in manifest.works(split) if w.memorization == "TM" or (w.rung or 0) >= manifest.rungs[-2]]
    order = np.random.default_rng(0).permutation(len(kept))[:works].tolist()
    pairs = [(kept[n], one) for n in sorted(order) for one in REWORDINGS[split]]
    return [Asked(w.id, one.kind, one.of(w.captions[0]), FIRST_SEED + n) for n, (w, one) in enumerate(pairs)]


def benign_rewordings(split: str, captions: Sequence[str]) -> list[Asked]:
    """Each caption in one template, by turns."""
    templates = REWORDINGS[split]
    turns = [(caption, templates[n % len(templates)]) for n, caption in enumerate(captions)]
    return [Asked(caption, one.kind, one.of(caption), FIRST_SEED + n) for n, (caption, one) in enumerate(turns)]


def flagged_late(pipe: Any, split: str = "dev") -> tuple[Item, Asked]:
    """The first rewording of the split that the first step lets through and the second point flags, at the shipped
    thresholds, and whose picture copies its work.

    Raises BadRequestError when there is none.
    """
    manifest, asked, looks = load_manifest(), rewordings_of(split), looks_for((StructureGap(),), USUAL_POINTS)
    sampling = NegativeSampling(manifest.sampling["steps"], manifest.sampling["guidance_scale"], PART)
    works, thresholds = {w.id: w for w in manifest.works(split)}, Shield(pipe, calibrate="never").thresholds
    for start in range(0, len(asked), PART):
        some = asked[start : start + PART]
        trace = drawn_as_far(pipe, looks, [(one.prompt, one.seed) for one in some], sampling)
        values = scores_in(pipe, looks, trace)
        settings = settings_of(pipe, looks, trace, models_of(pipe), sampling.guidance_scale)
        above = [[value > found(thresholds, look, settings[look]).value for value in values[look]] for look in looks]
        for one, first, later in zip(some, *above, strict=True):
            file = works[one.work].file
            if first or not later or file is None:
                continue
            made = generate(
                pipe, [one.prompt], [one.seed], steps=sampling.steps, guidance_scale=sampling.guidance_scale
            )
            if copy_judge().copied(made, [open_image(file)])[0]:
                return works[one.work], one
    raise BadRequestError(f"No rewording of the {split} works is a copy that is flagged late alone.")


class _Bench:
    def __init__(self, split: str, works: int | None, sample: float, device: str, parts: Path, tell: Tell) -> None:
        self.manifest, self.pipe, self.tell, self.sample = load_manifest(), load("testbed", device=device), tell, sample
        self.shield = Shield(self.pipe, calibrate="never")
        self.asked = rewordings_of(split, works)
        captions = negative_captions(split, self.manifest)["nonmembers"]
        self.benign = benign_rewordings(split, captions if works is None else captions[: 8 * works])
        self.sampling = NegativeSampling(
            self.manifest.sampling["steps"], self.manifest.sampling["guidance_scale"], PART
        )
        self.looks = looks_for((StructureGap(), NoiseGap()), USUAL_POINTS)
        references = [open_image(w.file) for w in self.manifest.works() if w.file]
        self.works = AnyOf(copy_judge(sscd=sscd_metric()), references)
        self.gallery = Gallery()
        self.gallery.add([(w.id, w.file) for w in self.manifest.works(split) if w.file])
        self.folder = parts / self._setting()
        self.folder.mkdir(parents=True, exist_ok=True)

    def _setting(self) -> str:
        """A name for what the rows depend on."""
        limits = [str(limit) for one in self.gallery.descriptors.values() for limit in one.limits.values()]
        about = [self.shield.model_sha256, [asdict(one) for one in self.asked], len(self.benign), self.sample]
        said = json.dumps([*about, self.gallery.works, list(self.gallery.descriptors), limits, list(USUAL_POINTS)])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def measured(self) -> dict[str, Any]:
        """The split's figures."""
        works, benign = self._scored("rewordings", self.asked), self._scored("benign", self.benign)
        drawn = np.random.default_rng(1).random(len(works)) < self.sample
        for row, is_drawn in zip(works, drawn.tolist(), strict=True):
            is_sure = not all(row["flagged"][way] for way in SURE)
            row["weight"] = 1.0 if is_sure else 1.0 / self.sample if is_drawn else 0.0
        for row in benign:
            row["weight"] = float(any(row["flagged"][way] for way in WAYS))
        works, benign = self._drawn("rewordings", works), self._drawn("benign", benign)
        return {**figures(works, benign), "sample": self.sample, "gallery": list(self.gallery.descriptors)}

    def _scored(self, name: str, asked: Sequence[Asked]) -> list[Row]:
        def score(some: Sequence[Asked]) -> list[Row]:
            work = [(one.prompt, one.seed) for one in some]
            trace = drawn_as_far(self.pipe, self.looks, work, self.sampling)
            values = scores_in(self.pipe, self.looks, trace)
            flagged = self._flagged(values, trace)
            scores = [{f"{a.name} at {a.point:g}": values[a][k] for a in self.looks} for k in range(len(some))]
            return [
                {**asdict(one), "scores": scores[k], "flagged": {way: flagged[way][k] for way in WAYS}}
                for k, one in enumerate(some)
            ]

        return self._by_part(f"{name}-scored", asked, score)

    def _flagged(self, values: dict[Any, list[float]], trace: Any) -> dict[str, list[bool]]:
        """By way, whether each score is above the shipped threshold."""
        scale = self.sampling.guidance_scale
        settings = settings_of(self.pipe, self.looks, trace, models_of(self.pipe), scale)
        single = [t for t in self.shield.thresholds if "budget" not in t.options]
        first, later, noise = self.looks[0], self.looks[1], self.looks[2]
        limits = {one: found(single, one.detector, settings[one]).value for one in (first, noise)}
        both = {one: found(self.shield.thresholds, one, settings[one]).value for one in (first, later)}
        rows = range(len(values[first]))
        return {
            WAYS[0]: [values[first][k] > limits[first] for k in rows],
            WAYS[1]: [values[noise][k] > limits[noise] for k in rows],
            WAYS[2]: [any(values[one][k] > both[one] for one in both) for k in rows],
        }

    def _drawn(self, name: str, rows: list[Row]) -> list[Row]:
        """The rows with what came of those that are drawn to the end."""

        def draw(some: Sequence[Row]) -> list[Row]:
            prompts, seeds = [row["prompt"] for row in some], [row["seed"] for row in some]
            steps, scale = self.sampling.steps, self.sampling.guidance_scale
            made = generate(self.pipe, prompts, seeds, batch_size=PART, steps=steps, guidance_scale=scale)
            judged = zip(some, made, self.works.copied(made), self.works.copied_by_sscd(made), strict=True)
            return [
                {**row, "copied": of, "copied_by_sscd": said, "seen": of and self._seen(one)}
                for row, one, of, said in judged
            ]

        chosen = [row for row in rows if row["weight"]]
        return self._by_part(f"{name}-drawn", chosen, draw) + [row for row in rows if not row["weight"]]

    def _seen(self, picture: Image.Image) -> bool:
        nearest = self.gallery.nearest(picture)
        return nearest is not None and nearest.copied

    def _by_part(self, name: str, items: Sequence[Any], make: Callable[[Sequence[Any]], list[Row]]) -> list[Row]:
        """What `make` gives for each part; a part whose file is there is read."""
        rows: list[Row] = []
        for start in range(0, len(items), PART):
            file = self.folder / f"{name}-{start}.json"
            if not file.exists():
                write_json(file, make(items[start : start + PART]))
            rows += json.loads(file.read_text(encoding="utf-8"))
            self.tell(name, len(rows), len(items))
        return rows


def figures(works: Sequence[Row], benign: Sequence[Row]) -> dict[str, Any]:
    """Of scored and partly drawn rows: bare copies, and by way those that left, with and without the gallery."""
    names = [row["work"] for row in works]
    copies = _copies(works, "copied")
    false = [row for row in benign if not (row["weight"] and row["copied"])]
    ways = {}
    for way in WAYS:
        left = _left(works, copies, way)
        unseen = [0.0 if row.get("seen") else one for row, one in zip(works, left, strict=True)]
        ways[way] = {
            "flagged": sum(row["flagged"][way] for row in works),
            "left": _ratio(left, copies, names),
            "left_with_gallery": _ratio(unseen, copies, names),
            "benign_flagged": _shares([row["flagged"][way] for row in false], [row["work"] for row in false]),
        }
    return {
        "works": len(set(names)),
        "rewordings": len(works),
        "drawn": sum(row["weight"] > 0 for row in works),
        "copies_drawn": sum(copy > 0 for copy in copies),
        "bare_copies": _ratio(copies, [1.0] * len(copies), names),
        "by_sscd": _by_sscd(works, names),
        "benign_that_draw_a_work": len(benign) - len(false),
        "ways": ways,
        "kinds": {kind: _by_kind([row for row in works if row["kind"] == kind]) for kind in _kinds(works)},
    }


def _copies(rows: Sequence[Row], said: str) -> list[float]:
    """How many copies each row stands for, by `copied` or `copied_by_sscd`."""
    return [row["weight"] if row["weight"] and row.get(said) else 0.0 for row in rows]


def _left(rows: Sequence[Row], copies: Sequence[float], way: str) -> list[float]:
    return [0.0 if row["flagged"][way] else copy for row, copy in zip(rows, copies, strict=True)]


def _by_sscd(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any] | None:
    """What is a copy by SSCD, and what of it left; None where SSCD judged nothing."""
    drawn = [row for row in rows if row["weight"] and row.get("copied_by_sscd") is not None]
    if not drawn:
        return None
    copies = _copies(rows, "copied_by_sscd")
    return {
        "bare_copies": _ratio(copies, [1.0] * len(copies), names),
        "left": {way: _ratio(_left(rows, copies, way), copies, names) for way in WAYS},
        "disagree": sum(row["copied"] != row["copied_by_sscd"] for row in drawn),
    }


def _kinds(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def _by_kind(rows: Sequence[Row]) -> dict[str, Any]:
    copied = [row for row in rows if row["weight"] and row["copied"]]
    left = {way: [row for row in copied if not row["flagged"][way]] for way in SURE}
    return {
        "rewordings": len(rows),
        "flagged": {way: sum(row["flagged"][way] for row in rows) for way in SURE},
        "left": {way: len(some) for way, some in left.items()},
        "left_with_gallery": {way: sum(not row["seen"] for row in some) for way, some in left.items()},
    }


def _ratio(parts: Sequence[float], wholes: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    about = _written(ratio_interval(parts, wholes, names))
    from_works = len({name for name, part in zip(names, parts, strict=True) if part})
    return {"count": round(sum(parts), 1), "of": round(sum(wholes), 1), "from_works": from_works, **about}


def _shares(outcomes: Sequence[bool], names: Sequence[str]) -> dict[str, Any]:
    return {"count": sum(outcomes), "of": len(outcomes), **_written(rate_interval(outcomes, names))}


def _written(one: Interval) -> dict[str, Any]:
    return {"share": one.value if math.isfinite(one.value) else None, "low": one.low, "high": one.high}


def _said(row: Figures) -> str:
    return "not known" if row["share"] is None else share(row)


def table(result: Figures) -> str:
    """A row for each split and way; then, held out, a row for each kind of rewording."""
    lines = [
        "| split | flagged by | rewordings flagged | bare copies | copies that left | their share of bare copies "
        "| with the gallery | benign flagged |",
        "|---" * 8 + "|",
    ]
    for split, one in result["splits"].items():
        by_sscd = one.get("by_sscd")
        bare = f"{one['bare_copies']['count']:.0f}, {_said(one['bare_copies'])}"
        bare += f"; SSCD {by_sscd['bare_copies']['count']:.0f}" if by_sscd else ""
        for way, row in one["ways"].items():
            left, benign, caught = row["left"], row["benign_flagged"], row["left_with_gallery"]
            said = f"; SSCD {_said(by_sscd['left'][way])}" if by_sscd else ""
            lines.append(
                f"| {split} | {way} | {row['flagged']} of {one['rewordings']} | {bare} "
                f"| {left['count']:.0f}, of {left['from_works']} works | {_said(left)}{said} "
                f"| {caught['count']:.0f}, {_said(caught)} | {benign['count']} of {benign['of']}, {_said(benign)} |"
            )
    kinds = result["splits"].get("heldout", {"kinds": {}})["kinds"]
    ways = next((list(row["flagged"]) for row in kinds.values()), list(SURE))
    lines += ["", f"| held out | rewordings | {' | '.join(f'{way}: flagged, copies left' for way in ways)} |"]
    lines.append("|---" * (2 + len(ways)) + "|")
    for kind, row in kinds.items():
        cells = [f"{row['flagged'][way]}, {row['left'][way]}" for way in ways]
        lines.append(f"| {kind} | {row['rewordings']} | {' | '.join(cells)} |")
    return "\n".join(lines)
