"""What leaves the shield on the testbed, held out: works, protected characters and benign scenes, with it and without.

Works: every held-out caption, several noises and guidance scales; a picture that left is counted as a copy of *any*
work. Characters: names, aliases and descriptions; recognized when OpenCLIP puts the character's description first
among those of all twelve, which chance does once in twelve. Scenes: what is flagged though it is benign,
and agreement with the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.bench.kept import Drawn, kept_pictures
from probes.bench.sheets import sheet
from probes.inputs.truth import testbed_alignment
from probes.metrics.second_opinion import AnyOf, opinion, sscd_metric
from probes.metrics.statistics import rate_interval
from probes.model.generate import generators, quiet
from probes.report.format import earlier
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from probes.verbs.calibrate_protected import testbed_concepts, works_gallery
from probes.verbs.screens import groups
from shield.model.assets import MANIFEST, sha256_of, weights_dir
from shield.model.loading import load
from shield.protected.meaning import Meaning
from shield.protected.pictures import open_image
from shield.wrapper import Shield

FIRST_SEED = 8000
GUIDANCE = (2.0, 3.0, 5.0, 7.5)
BARE_SEEDS = 2
SHOWN = 12  # rows of a contact sheet
WAYS = ("bare", "shield", "shield and gallery", "shield and concepts")
PARTS = {"works": WAYS[:3], "characters": (WAYS[0], WAYS[3]), "scenes": (WAYS[0], WAYS[1], WAYS[3])}
"""What is measured, and by which ways."""
ASKED = ("names and aliases", "descriptions in full", "descriptions in short", "descriptions in another order")


@dataclass(frozen=True)
class PictureRequest:
    """One picture that is asked for. `item`: the work, character or scene that it is about."""

    group: str
    item: str
    prompt: str
    seed: int
    guidance_scale: float


@dataclass(frozen=True)
class PictureFolder:
    """Where what is drawn stays, and by which name of what draws it: another model or shield is another name."""

    folder: Path
    name: str


@dataclass(frozen=True)
class Left:
    """What came of a request. `picture` None: it was blocked. `status`: passed, mitigated, blocked; "bare" without."""

    request: PictureRequest
    picture: Image.Image | None
    status: str


def asked(
    make: Any,
    requests: Sequence[PictureRequest],
    steps: int,
    batch_size: int,
    progress: Callable[[int], None],
    kept: PictureFolder | None = None,
) -> list[Left]:
    """All requests, to a pipeline or a Shield; a batch has one guidance scale."""
    found: dict[int, Left] = {}
    for scale in dict.fromkeys(r.guidance_scale for r in requests):
        places = [n for n, r in enumerate(requests) if r.guidance_scale == scale]
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            prompts, seeds = [requests[n].prompt for n in batch], [requests[n].seed for n in batch]

            def draw(prompts: list[str] = prompts, seeds: list[int] = seeds, scale: float = scale) -> Drawn:
                with quiet(getattr(make, "pipe", make)):
                    output = make(prompts, num_inference_steps=steps, guidance_scale=scale, generator=generators(seeds))
                verdicts = getattr(output, "verdicts", None)
                statuses = [v.status for v in verdicts] if verdicts else ["bare"] * len(prompts)
                shown = [
                    blank() if status == "blocked" else picture
                    for picture, status in zip(output.images, statuses, strict=True)
                ]
                return shown, statuses

            if kept is None:
                images, statuses = draw()
            else:
                images, statuses = kept_pictures(kept.folder, [kept.name, steps, scale, prompts, seeds], draw)
            for n, image, status in zip(batch, images, statuses, strict=True):
                found[n] = Left(requests[n], None if status == "blocked" else image, status)
            progress(len(batch))
    return [found[n] for n in range(len(requests))]


def bench_shield(
    out: Path,
    *,
    pictures: Path,
    parts: Sequence[str] = tuple(PARTS),
    ways: Sequence[str] = WAYS,
    seeds: int = 4,
    batch_size: int = 32,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Writes shield.json, shield-works.png and shield-characters.png; returns the figures.

    Of the PARTS and WAYS that aren't drawn anew, the figures of an earlier shield.json of the same model and setting
    are kept; a sheet needs all ways. What is drawn stays in the folder ``pictures``, from which the next call goes on,
    until a shipped weight or threshold changes.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest, pipe = load_manifest(), load("testbed", device=device)
    bench = _Bench(out, pictures, manifest, pipe, seeds, batch_size, progress)
    plain = Shield(pipe, calibrate="never")
    make: dict[str, Callable[[], Any]] = {
        "bare": lambda: pipe,
        "shield": lambda: plain,
        "shield and gallery": lambda: Shield(pipe, gallery=works_gallery(), calibrate="never"),  # takes minutes
        "shield and concepts": lambda: Shield(pipe, concepts=Meaning(testbed_concepts(), "testbed"), calibrate="never"),
    }
    made = {way: make[way]() for way in WAYS if way in ways and any(way in PARTS[part] for part in parts)}
    result: dict[str, Any] = {
        "format": 1,
        "model_sha256": plain.model_sha256,
        "seeds": seeds,
        "steps": manifest.sampling["steps"],
        "guidance": list(GUIDANCE),
    }
    result = {**earlier(out / "shield.json", result), **result}
    draw = {"works": bench.works, "characters": bench.characters, "scenes": bench.scenes}
    for part in parts:
        drawn = draw[part]({way: made[way] for way in PARTS[part] if way in made})
        result[part] = {**result.get(part, {}), **drawn}
    write_json(out / "shield.json", result)
    return result


class _Bench:
    def __init__(
        self,
        out: Path,
        pictures: Path,
        manifest: Any,
        pipe: Any,
        seeds: int,
        batch_size: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.out, self.manifest, self.seeds, self.batch_size, self.progress = out, manifest, seeds, batch_size, progress
        self.steps, self.scale = manifest.sampling["steps"], manifest.sampling["guidance_scale"]
        self.alignment = testbed_alignment()
        self.pictures, self.shipped = pictures, _shipped()

    def _asked(self, name: str, make: Any, requests: Sequence[PictureRequest]) -> list[Left]:
        done = 0

        def count(made: int) -> None:
            nonlocal done
            done += made
            self.progress(name, done, len(requests))

        kept = PictureFolder(self.pictures, f"{name}, {self.shipped}")
        return asked(make, requests, self.steps, self.batch_size, count, kept)

    def works(self, makes: dict[str, Any]) -> dict[str, Any]:
        """Per way and rung: pictures that copy any work, and what the shield did. The bare pipeline, which is only
        there to compare with, gets the first seeds alone.
        """
        works = self.manifest.works("heldout")
        requests = [
            PictureRequest(
                "TM" if w.memorization == "TM" else f"rung {w.rung}",
                w.id,
                w.captions[k % len(w.captions)],
                FIRST_SEED + k,
                scale,
            )
            for k in range(self.seeds)
            for scale in GUIDANCE
            for w in works
        ]
        few = requests[: BARE_SEEDS * len(GUIDANCE) * len(works)]
        works_of = AnyOf(copy_judge(sscd=sscd_metric()), [open_image(w.file) for w in self.manifest.works() if w.file])
        left = {
            name: self._asked(f"works, {name}", make, few if name == "bare" else requests)
            for name, make in makes.items()
        }
        result = {
            name: {group: _copies(rows, works_of) for group, rows in _by_group(some)} for name, some in left.items()
        }
        if set(left) == set(PARTS["works"]):
            self._works_sheet(left)
        return result

    def characters(self, makes: dict[str, Any]) -> dict[str, Any]:
        """Per way and kind of prompt: pictures in which the character is recognized, and what the shield did. "real"
        are pictures of the testbed's own drawing.
        """
        requests = [
            PictureRequest(group, who, prompt, FIRST_SEED + k, self.scale)
            for group, prompts in groups("heldout")
            if group in ASKED
            for prompt, who in prompts
            if who
            for k in range(2)
        ]
        names = {item.aliases[0]: f"a picture of {item.description}" for item in self.manifest.characters()}
        captions = list(names.values())
        points = self.alignment.embed_captions(captions)

        def recognized(pictures: Sequence[Image.Image], who: Sequence[str]) -> list[bool]:
            first = (self.alignment.embed_pictures(pictures) @ points.T).argmax(axis=1)
            return [captions[f] == names[w] for f, w in zip(first, who, strict=True)]

        real = [(item.aliases[0], open_image(item.file)) for item in self.manifest.characters("heldout") if item.file]
        outcomes = recognized([picture for _, picture in real], [who for who, _ in real])
        result: dict[str, Any] = {"candidates": len(captions), "real": _rate(outcomes, [who for who, _ in real])}
        left = {name: self._asked(f"characters, {name}", make, requests) for name, make in makes.items()}
        for name, some in left.items():
            result[name] = {}
            for group, rows in _by_group(some):
                shown = [row for row in rows if row.picture is not None]
                found = iter(recognized([r.picture for r in shown if r.picture], [r.request.item for r in shown]))
                outcomes = [next(found) if row.picture is not None else False for row in rows]
                result[name][group] = {**_rate(outcomes, [r.request.item for r in rows]), **_statuses(rows)}
        if set(left) == set(PARTS["characters"]):
            self._characters_sheet(left)
        return result

    def scenes(self, makes: dict[str, Any]) -> dict[str, Any]:
        """Per way: flagged though benign, and mean agreement with the caption."""
        scenes = self.manifest.scenes("heldout")
        requests = [PictureRequest("scenes", s.caption, s.caption, FIRST_SEED, self.scale) for s in scenes]
        result = {}
        for name, make in makes.items():
            rows = self._asked(f"scenes, {name}", make, requests)
            shown = [row for row in rows if row.picture is not None]
            agreement = self.alignment.similarity(
                [r.picture for r in shown if r.picture is not None], [r.request.prompt for r in shown]
            )
            # By the status, as a row keeps no verdict: `balanced` never passes what `verdict.flagged` says was flagged.
            flagged = [row.status not in ("bare", "passed") for row in rows]
            result[name] = {
                "flagged": _rate(flagged, [r.request.item for r in rows]),
                **_statuses(rows),
                "alignment": float(np.mean(agreement)),
            }
        return result

    def _works_sheet(self, left: dict[str, list[Left]]) -> None:
        """The first works of the top rungs: the work, the bare picture, what the shield handed out, at the usual
        guidance.
        """
        top = {f"rung {rung}" for rung in self.manifest.rungs[-2:]}
        references = {w.id: open_image(w.file) for w in self.manifest.works("heldout") if w.file}
        rows, names = [], []
        for n, request in enumerate(r.request for r in left["bare"]):
            if request.group in top and request.seed == FIRST_SEED and request.guidance_scale == self.scale:
                cells = [some[n].picture or blank() for some in left.values()]
                rows.append([references[request.item], *cells])
                names.append(f"{request.prompt} ({left['shield'][n].status})")
        sheet(rows[:SHOWN], names[:SHOWN], ["work", *left]).save(self.out / "shield-works.png")

    def _characters_sheet(self, left: dict[str, list[Left]]) -> None:
        """One prompt of each kind for each character."""
        pictures = {c.aliases[0]: open_image(c.file) for c in self.manifest.characters() if c.file}
        rows, names, seen = [], [], set()
        for n, request in enumerate(r.request for r in left["bare"]):
            if (request.group, request.item) not in seen:
                seen.add((request.group, request.item))
                rows.append([pictures[request.item], *(some[n].picture or blank() for some in left.values())])
                names.append(f"{request.prompt} ({left['shield and concepts'][n].status})")
        sheet(rows, names, ["character", *left]).save(self.out / "shield-characters.png")


def _by_group(rows: Iterable[Left]) -> list[tuple[str, list[Left]]]:
    some = list(rows)
    return [
        (group, [r for r in some if r.request.group == group]) for group in dict.fromkeys(r.request.group for r in some)
    ]


def _copies(rows: Sequence[Left], works: AnyOf) -> dict[str, Any]:
    pictures, items = [row.picture for row in rows], [row.request.item for row in rows]
    copied = works.copied(pictures)
    said = opinion(works.copied_by_sscd(pictures), copied, items)
    scales = [row.request.guidance_scale for row in rows]
    by_guidance = {
        f"{scale:g}": sum(c for c, own in zip(copied, scales, strict=True) if own == scale) for scale in GUIDANCE
    }
    return {**_rate(copied, items), "by_guidance": by_guidance, "by_sscd": said, **_statuses(rows)}


def _statuses(rows: Sequence[Left]) -> dict[str, int]:
    return {status: sum(row.status == status for row in rows) for status in ("passed", "mitigated", "blocked")}


def _rate(outcomes: Sequence[bool], items: Sequence[str]) -> dict[str, Any]:
    found = rate_interval(outcomes, items)
    return {
        "n": found.n,
        "items": found.clusters,
        "count": sum(outcomes),
        "share": found.value,
        "low": found.low,
        "high": found.high,
    }


def _shipped() -> list[str]:
    """Digests of what decides a picture: the listed weights, and the thresholds, which no manifest lists."""
    root = weights_dir()
    return [sha256_of(path) for path in (root / MANIFEST, *sorted((root / "thresholds").rglob("*.json")))]


def blank() -> Image.Image:
    """Stands in a sheet for a picture that was blocked."""
    return Image.new("RGB", (128, 128), (225, 225, 225))


def table(result: dict[str, Any]) -> str:
    """The figures of the parts that were drawn, as Markdown."""
    share = lambda r: f"{r['count']} of {r['n']} ({r['share']:.1%}, {r['low']:.1%} to {r['high']:.1%})"  # noqa: E731
    lines = [
        "| asked for | through | came out, or was recognized | passed | mitigated | blocked |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("works", "characters"):
        for way, rows in result.get(kind, {}).items():
            for group, row in rows.items() if way not in ("real", "candidates") else ():
                said = f"; SSCD {row['by_sscd']['count']}" if row.get("by_sscd") else ""
                lines.append(
                    f"| {group} | {way} | {share(row)}{said} | {row['passed'] or ''} | {row['mitigated'] or ''} "
                    f"| {row['blocked'] or ''} |"
                )
    lines += ["", "| benign scenes through | flagged | agreement with the caption |", "|---|---|---|"]
    for way, row in result.get("scenes", {}).items():
        lines.append(f"| {way} | {share(row['flagged'])} | {row['alignment']:.3f} |")
    return "\n".join(lines)
