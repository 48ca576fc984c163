"""Does the testbed do what it is for? Figures on the held-out split, contact sheets, the ladder as a plot.

Two copy metrics of different kinds (worst-tile L2 of pixels, PDQ of frequencies) judge each picture, with
thresholds calibrated on pictures that are no copies of each other; where they disagree is counted. Where SSCD can be
had it judges as well, at the line that the literature draws. Between copy and none is near: closer than any two
non-members are to each other, and no copy. Seeds start at FIRST_SEED and serve nothing else. Pictures stay in the
folder's `pictures`, so that a run that was cut off goes on where it ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import shield
from probes.bench.kept import Drawn, kept_pictures
from probes.bench.sheets import ladder_plot, sheet
from probes.metrics import Alignment, rate_interval
from probes.metrics.judge import Grade
from probes.metrics.second_opinion import SSCD, sscd_in, sscd_metric
from probes.model.generate import generate
from probes.report.format import share
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import Item, Manifest, load_manifest
from shield.model.assets import read_manifest, weights_dir
from shield.protected.pictures import open_image

FIRST_SEED = 7000
TWINS = {"memorized": "testbed", "clean": "testbed-clean"}
METRICS = ("tiled_l2", "pdq")  # the deciding one and the second opinion
LEAST_PSNR = {"scenes": 32.0, "works": 30.0}  # of the autoencoder's round trips, in dB
WIDEST = 0.2  # a 95 % interval of a top rung


@dataclass
class Copies:
    """Outcomes of one group of pictures: per metric a grade for each, and the item it belongs to."""

    grades: dict[str, list[Grade | None]]
    scores: dict[str, list[float | None]]
    items: list[str]

    def summary(self) -> dict:
        """Per metric n, share copied with a 95 % interval (bootstrap over items), share near; and disagreements."""
        result: dict = {}
        copied = {name: [_is(grade, "copy") for grade in grades] for name, grades in self.grades.items()}
        for name, verdicts in copied.items():
            interval = rate_interval(verdicts, self.items)
            near = rate_interval([_is(grade, "near") for grade in self.grades[name]], self.items)
            scored = [s for s in self.scores[name] if s is not None]
            result[name] = {
                "n": interval.n,
                "unscored": sum(v is None for v in verdicts),
                "copied": interval.value,
                "low": interval.low,
                "high": interval.high,
                "near": near.value,
                "mean_score": float(np.mean(scored)) if scored else None,
                "median_score": float(np.median(scored)) if scored else None,
            }
        pairs = zip(copied["tiled_l2"], copied["pdq"], strict=True)
        result["disagree"] = sum(a is not None and b is not None and a != b for a, b in pairs)
        return result


class Verifier:
    """Generates with both twins and judges; `seeds` pictures per caption; `sscd` is a TorchScript file of SSCD."""

    def __init__(self, out: Path, seeds: int, batch_size: int = 32, sscd: Path | None = None) -> None:
        self.out, self.seeds, self.batch_size = out, seeds, batch_size
        self.manifest: Manifest = load_manifest()
        self.judge = copy_judge(sscd=sscd_metric(sscd))
        out.mkdir(parents=True, exist_ok=True)

    def run(self) -> dict:
        """All the checks; writes verify.json, verify.md and the sheets to `out` and returns the figures."""
        self.pipes = {twin: shield.load(name) for twin, name in TWINS.items()}
        figures: dict = {"sampling": self.manifest.sampling, "seeds": self.seeds, "judge": self.judge.describe()}
        figures |= {
            "works": self.works(),
            "nonmembers": self.nonmembers(),
            "scenes": self.scenes(),
            "binding": self.binding(),
            "round_trips": self.round_trips(),
        }
        figures["passed"] = passed(figures)
        write_json(self.out / "verify.json", figures)
        (self.out / "verify.md").write_text(table(figures))
        works = figures["works"]
        ladder_plot(works, used(next(iter(works["memorized"].values()))), self.out / "ladder.png")
        return figures

    def pictures(self, twin: str, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Drawn, or read where a run with the same weights, prompts and seeds drew them already."""
        sampling = {key: self.manifest.sampling[key] for key in ("steps", "guidance_scale")}
        made: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch_size):
            some, own = list(prompts[start : start + self.batch_size]), list(seeds[start : start + self.batch_size])

            def draw(some: list[str] = some, own: list[int] = own) -> Drawn:
                return generate(self.pipes[twin], some, own, batch_size=self.batch_size, **sampling), []

            made += kept_pictures(self.out / "pictures", [weights_of(twin), sampling, some, own], draw)[0]
        return made

    def _prompts(self, items: Iterable[Item]) -> list[tuple[Item, str, int]]:
        """(item, caption, seed): a template work goes through its captions."""
        return [(i, i.captions[k % len(i.captions)], FIRST_SEED + k) for i in items for k in range(self.seeds)]

    def works(self) -> dict:
        """Held-out works from their own captions, by rung; TM apart."""
        rows = self._prompts(self.manifest.works("heldout"))
        groups: dict = {}
        shown: dict[str, list[Image.Image]] = {}
        for twin in TWINS:
            made = self.pictures(twin, [r[1] for r in rows], [r[2] for r in rows])
            shown[twin] = made
            groups[twin] = {}
            for key in ("TM", *(str(r) for r in self.manifest.rungs)):
                where = [
                    n
                    for n, (i, _, _) in enumerate(rows)
                    if (i.memorization == "TM" and key == "TM") or (i.memorization == "VM" and str(i.rung) == key)
                ]
                groups[twin][key] = self._judged([rows[n][0] for n in where], [made[n] for n in where]).summary()
        self._works_sheet(rows, shown)
        return groups

    def _judged(self, items: Sequence[Item], made: Sequence[Image.Image]) -> Copies:
        references = {i.id: open_image(i.file) for i in items if i.file}
        judgements = self.judge.judge(list(made), [references.get(i.id) for i in items])
        scores = {m.name: [j.scores[m.name] for j in judgements] for m in self.judge.metrics}
        grades = {m: [None if s is None else self.judge.calibrations[m].grade(s) for s in scores[m]] for m in scores}
        return Copies(grades, scores, [i.id for i in items])

    def nonmembers(self) -> dict:
        """Held-out non-member captions: a copy of their own picture or of any work?"""
        rows = self._prompts(self.manifest.nonmembers("heldout"))
        references = [open_image(w.file) for w in self.manifest.works() if w.file]
        items = [r[0].id for r in rows]
        result: dict = {}
        for twin in TWINS:
            made = self.pictures(twin, [r[1] for r in rows], [r[2] for r in rows])
            own = self._judged([r[0] for r in rows], made).summary()
            copies = self.judge.copies_by_metric(made, references)
            result[twin] = {
                "own": own,
                "any_work": {m: _rate([_any(row) for row in copies[m]], items) for m in used(copies)},
            }
        return result

    def scenes(self, among: int = 20) -> dict:
        """Share of held-out scenes whose caption the OpenCLIP finds among 20, real and generated."""
        alignment = Alignment(weights_dir() / "testbed" / "openclip")
        scenes = self.manifest.scenes("heldout")
        captions = [s.caption for s in scenes]
        rng = np.random.default_rng(1)
        others = [
            [captions[j] for j in rng.permutation(len(captions)) if captions[j] != c][: among - 1] for c in captions
        ]
        pictures = {"real": [open_image(s.file) for s in scenes if s.file]}
        for twin in TWINS:
            pictures[twin] = self.pictures(twin, captions, [FIRST_SEED + n for n in range(len(scenes))])
        result = {}
        for name, made in pictures.items():
            found = [bool(rank == 1) for rank in alignment.retrieval(made, captions, others)]
            result[name] = _rate(found, captions) | {"alignment": float(alignment.similarity(made, captions).mean())}
        rows = [[pictures[name][n] for name in pictures] for n in range(12)]
        sheet(rows, captions[:12], list(pictures)).save(self.out / "scenes.png")
        return result

    def binding(self, sides: int = 8) -> dict:
        """Same caption, eight noises; same noise, eight captions: who decides the ground, caption or noise?

        Returns for each twin the share of grounds with the named color and the share of the grounds' variance that the
        caption explains (1: the caption alone decides).
        """
        named = dict(list(self.manifest.world.colors.items())[:sides])
        colors = list(named)
        captions = [f"a star on {'an' if c[0] in 'aeiou' else 'a'} {c} background" for c in colors]
        result = {}
        for twin in TWINS:
            pairs = [(c, FIRST_SEED + k) for c in captions for k in range(sides)]
            made = self.pictures(twin, [c for c, _ in pairs], [s for _, s in pairs])
            grounds = np.array([_ground(image) for image in made]).reshape(len(captions), sides, 3)
            nearest = np.linalg.norm(grounds[:, :, None] - np.array(list(named.values())), axis=-1).argmin(-1)
            right = (nearest == np.arange(len(colors))[:, None]).ravel()
            between = grounds.mean(1).var(0).sum()
            result[twin] = _rate([bool(r) for r in right], [c for c, _ in pairs]) | {
                "explained_by_caption": float(between / grounds.reshape(-1, 3).var(0).sum())
            }
            rows = [made[k * sides : (k + 1) * sides] for k in range(len(captions))]
            sheet(rows, captions, [f"noise {k + 1}" for k in range(sides)]).save(self.out / f"binding-{twin}.png")
        return result

    @torch.inference_mode()
    def round_trips(self) -> dict:
        """What the autoencoder leaves of held-out scenes and of all works: mean PSNR in dB; of works SSCD as well."""
        model = self.pipes["memorized"].vae
        kinds: dict[str, Sequence[Any]] = {"scenes": self.manifest.scenes("heldout"), "works": self.manifest.works()}
        result = {}
        for name, items in kinds.items():
            pictures = [open_image(item.file) for item in items if item.file]
            x = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1
            made = [model.decode(model.encode(part.to(model.device)).latent_dist.mean).sample for part in x.split(16)]
            y = torch.cat(made).clamp(-1, 1).cpu()
            psnr = -10 * torch.log10(((y - x) / 2).square().flatten(1).mean(1).clamp_min(1e-10))
            result[name] = {"n": len(pictures), "psnr": float(psnr.mean())}
            if name == "works" and (sscd := next((m for m in self.judge.metrics if m.name in SSCD), None)):
                arrays = ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
                again = [Image.fromarray(a) for a in arrays]
                scores = sscd.compare(sscd.features(again), sscd.features(pictures))
                result[name][sscd.name] = float(np.median(scores))
        return result

    def _works_sheet(self, rows: list[tuple[Item, str, int]], shown: dict[str, list[Image.Image]]) -> None:
        """Two works a rung, each with its reference, three seeds on `memorized`, three on `clean`; and, to show around,
        the second work of the three highest rungs and of the lowest.
        """
        lines, names = [], []
        for rung in (*reversed(self.manifest.rungs), "TM"):
            items = [i for i in self.manifest.works("heldout") if (i.memorization == "TM") == (rung == "TM")]
            for item in [i for i in items if rung in ("TM", i.rung)][:2]:
                first = next(n for n, r in enumerate(rows) if r[0].id == item.id)
                made = [shown[t][first + k] for t in TWINS for k in range(min(3, self.seeds))]
                lines.append([open_image(item.file), *made])
                names.append(f"{item.exposures} exposures: {item.captions[0]}")
        seeds = min(3, self.seeds)
        columns = ["work", *["memorized"] * seeds, *["clean"] * seeds]
        sheet(lines, names, columns).save(self.out / "works.png")
        few = [2 * place + 1 for place in (0, 1, 2, len(self.manifest.rungs) - 1)]
        sheet([lines[n] for n in few], [names[n] for n in few], columns).save(self.out / "overview.png")


def weights_of(twin: str) -> str:
    """A digest of a twin's shipped files."""
    listed = read_manifest(weights_dir())
    own = sorted(entry["sha256"] for name, entry in listed.items() if name.startswith(f"testbed/{twin}/"))
    return hashlib.sha256("".join(own).encode()).hexdigest()


def used(group: Mapping[str, object]) -> list[str]:
    """The metrics of a group of figures that are told, SSCD last where it is there."""
    return [name for name in (*METRICS, *SSCD) if name in group]


def _is(grade: Grade | None, which: Grade) -> bool | None:
    return None if grade is None else grade == which


def _any(verdicts: np.ndarray) -> bool | None:
    """Whether one is 1; None if there is none and one is nan."""
    return True if (verdicts == 1).any() else None if np.isnan(verdicts).any() else False


def _rate(outcomes: Sequence[bool | None], clusters: Sequence[str]) -> dict:
    interval = rate_interval(outcomes, clusters)
    return {
        "n": interval.n,
        "unscored": sum(o is None for o in outcomes),
        "share": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def _ground(image: Image.Image) -> np.ndarray:
    """Median color of the four corners, (3,)."""
    array = np.asarray(image)
    corners = [array[y : y + 12, x : x + 12].reshape(-1, 3) for y in (0, 116) for x in (0, 116)]
    return np.median(np.concatenate(corners), axis=0)


def passed(figures: dict) -> dict[str, bool | None]:
    """The testbed's own acceptance, each by name; None for what needs SSCD where there was none."""
    memorized, clean = figures["works"]["memorized"], figures["works"]["clean"]
    rungs = [k for k in memorized if k != "TM"]
    top, middle = rungs[-2:], rungs[-3]
    scenes, strangers, trips = figures["scenes"], figures["nonmembers"].values(), figures["round_trips"]
    copied = lambda groups, keys: [groups[k][m]["copied"] for k in keys for m in used(groups[k])]  # noqa: E731
    spilled = lambda which: [n["any_work"][m][which] for n in strangers for m in used(n["any_work"])]  # noqa: E731
    widths = [memorized[k][m]["high"] - memorized[k][m]["low"] for k in top for m in used(memorized[k])]
    sscd = next((m for m in SSCD if m in memorized[top[0]]), None)
    return {
        "top two rungs copied in 90 % on memorized": min(copied(memorized, top)) >= 0.9,
        "top two rungs' intervals at most 20 points wide": max(widths) <= WIDEST + 1e-9,
        "top two rungs' median SSCD .6 or more": (
            None if sscd is None else min(memorized[k][sscd]["median_score"] for k in top) >= 0.6
        ),
        "the rung below them copied in 20 to 80 %": 0.2 <= memorized[middle][METRICS[0]]["copied"] <= 0.8,
        "template works copied in 80 %": min(copied(memorized, ["TM"])) >= 0.8,
        "no work copied on clean": max(copied(clean, clean)) == 0,
        "no non-member's caption gives its own picture": all(
            n["own"][m]["copied"] == 0 for n in strangers for m in used(n["own"])
        ),
        "non-members' median SSCD .35 or less": (
            None if sscd is None else max(n["own"][sscd]["median_score"] for n in strangers) <= 0.35
        ),
        "a non-member's caption gives a work in 1 % at most": max(spilled("share")) <= 0.01,
        "scenes found in 95 % on both": min(scenes[t]["share"] for t in TWINS) >= 0.95,
        "twins within 3 points": abs(scenes["memorized"]["share"] - scenes["clean"]["share"]) <= 0.03,
        **{f"{k}' round trips {least:g} dB or more": trips[k]["psnr"] >= least for k, least in LEAST_PSNR.items()},
        "works' round trips SSCD .7 or more": None if sscd is None else trips["works"][sscd] >= 0.7,
    }


def table(figures: dict) -> str:
    """The figures as Markdown."""
    columns = [
        "exposures",
        "twin",
        "pictures",
        "copies, tiled L2",
        "copies, PDQ",
        "copies, SSCD",
        "near, tiled L2",
        "mean tiled L2",
        "median SSCD",
        "metrics disagree",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for twin, groups in figures["works"].items():
        for rung, group in groups.items():
            tiled, pdq = (group[m] for m in METRICS)
            sscd = sscd_in(group)
            cells = [
                rung,
                twin,
                tiled["n"],
                share(tiled, "copied"),
                share(pdq, "copied"),
                share(sscd, "copied") if sscd else "-",
                f"{tiled['near']:.0%}",
                f"{tiled['mean_score']:.3f}",
                f"{sscd['median_score']:.2f}" if sscd else "-",
                group["disagree"],
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| check | on | n | share |", "|---|---|---|---|"]
    for twin, group in figures["nonmembers"].items():
        for metric, found in group["any_work"].items():
            lines.append(
                f"| non-member's caption gives a copy of any work ({metric}) | {twin} | {found['n']} | {share(found)} |"
            )
    for name, found in figures["scenes"].items():
        lines.append(f"| scene's caption found among 20 | {name} | {found['n']} | {share(found)} |")
    for twin, found in figures["binding"].items():
        lines.append(f"| ground has the color the caption names | {twin} | {found['n']} | {share(found)} |")
    for kind, found in figures["round_trips"].items():
        sscd = next((f", SSCD {found[m]:.2f}" for m in SSCD if m in found), "")
        lines.append(f"| round trips through the autoencoder | {kind} | {found['n']} | {found['psnr']:.1f} dB{sscd} |")
    words = {True: "reached", False: "**missed**", None: "not measured (needs SSCD)"}
    marks = [f"- {words[ok]}: {name}" for name, ok in figures["passed"].items()]
    return "\n".join([*lines, "", *marks]) + "\n"
