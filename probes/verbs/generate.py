"""One prompt side by side: the bare model, the same noise behind the shield, the clean twin, and the nearest work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from probes.inputs.pictures import reference_picture
from probes.metrics import ReferenceIndex
from probes.model.generate import generate, size_arguments
from probes.paths import takes_paths
from probes.runs.folder import check_folder, record_id
from probes.testbed.checkpoint import Checkpoint
from shield.wrapper import Shield

ABSENT = ("concepts", "gallery", "thresholds", "size")  # named by an id only where they are given


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to make. ``policy`` is a preset of shield/runtime/policy.py; no ``steps``, scale or ``size`` (height
    and width in pixels): the model's own. ``concepts``, ``gallery`` and ``thresholds`` as for Shield, concepts also as
    registries' files.
    """

    prompt: str
    model: str = "testbed"
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    policy: str = "balanced"
    device: str = "auto"
    concepts: Sequence[str] = ()
    gallery: str | None = None
    thresholds: str | None = None
    size: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """Stands for the request in file names; a prompt may hold anything."""
        config = {key: value for key, value in asdict(self).items() if key not in ("prompt", "seed", "device")}
        config = {key: value for key, value in config.items() if value or key not in ABSENT}
        return record_id(config, self.prompt, self.seed)


@takes_paths
def shown(request: GenerationRequest, out: Path, *, compare: bool = False) -> dict[str, Any]:
    """Make the shielded picture, and with ``compare`` the others; write them to ``out``; say what happened.

    Returns prompt, seed, flagged, verdict (the shield's), pictures (label -> path) and copies (label -> what it
    resembles; the testbed only, elsewhere nobody knows the works).
    """
    check_folder(out)
    checkpoint = Checkpoint.of(request.model).loaded(request.device)
    pictures, verdict = _shielded(checkpoint, request)
    if compare:
        pictures = {"bare": _bare(checkpoint, request), **pictures}
        if checkpoint.twin is not None:
            pictures["clean twin"] = _bare(Checkpoint.of(checkpoint.twin).loaded(request.device), request)
    copies, work = _resemblances(request, pictures) if checkpoint.twin is not None else ({}, {})
    paths = _saved(out, request, pictures)
    if compare:
        strip = side_by_side({**work, **pictures})
        paths["side by side"] = _save(strip, out / f"{request.id}-compare.png")
    return {
        "prompt": request.prompt,
        "seed": request.seed,
        "flagged": verdict["flagged"],
        "verdict": verdict,
        "pictures": {label: str(path) for label, path in paths.items()},
        "copies": copies,
    }


def _bare(checkpoint: Checkpoint, request: GenerationRequest) -> Image.Image:
    steps, scale = checkpoint.sampling(request.steps, request.guidance_scale)
    return generate(
        checkpoint.pipe, [request.prompt], [request.seed], steps=steps, guidance_scale=scale, size=request.size
    )[0]


def _shielded(checkpoint: Checkpoint, request: GenerationRequest) -> tuple[dict[str, Image.Image], dict[str, Any]]:
    import torch

    noise = torch.Generator("cpu").manual_seed(request.seed)
    steps, scale = checkpoint.sampling(request.steps, request.guidance_scale)
    safe = Shield(checkpoint.pipe, request.policy, request.gallery, list(request.concepts) or None, request.thresholds)
    sides = size_arguments(request.size)
    output = safe(request.prompt, num_inference_steps=steps, guidance_scale=scale, generator=[noise], **sides)
    return {"shielded": output.images[0]}, output.verdicts[0].to_dict()


def _resemblances(
    request: GenerationRequest, pictures: Mapping[str, Image.Image]
) -> tuple[dict[str, dict[str, Any]], dict[str, Image.Image]]:
    """For each picture the testbed's nearest work and whether it is a copy; and the work that belongs beside them.

    That is the one whose caption was asked for, else the one nearest to the first picture; its label says which.
    """
    from probes.testbed.criterion import copy_judge
    from probes.testbed.manifest import load_manifest

    manifest = load_manifest()
    works = {item.id: reference_picture(item.file) for item in manifest.works() if item.file is not None}
    judge = copy_judge()
    index = ReferenceIndex(works, judge.metrics[0])
    found: dict[str, dict[str, Any]] = {}
    for label, picture in pictures.items():
        nearest = index.nearest([picture])[0][0].id
        judgement = judge.judge([picture], [works[nearest]])[0]
        found[label] = {"work": nearest, "copied": judgement.copied, "scores": dict(judgement.scores)}
    own = next((item.id for item in manifest.works() if request.prompt in item.captions), None)
    if own is not None:
        return found, {"work asked for": works[own]}
    return found, {"nearest work": works[found[next(iter(pictures))]["work"]]}


def side_by_side(pictures: Mapping[str, Image.Image], side: int = 256) -> Image.Image:
    """The pictures in one row, each under its label."""
    band, gap = 24, 8
    strip = Image.new("RGB", (len(pictures) * (side + gap) + gap, side + band + gap), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    for place, (label, picture) in enumerate(pictures.items()):
        left = gap + place * (side + gap)
        draw.text((left, 4), label, fill="black", font=font)
        strip.paste(ImageOps.pad(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS, "white"), (left, band))
    return strip


def _saved(out: Path, request: GenerationRequest, pictures: Mapping[str, Image.Image]) -> dict[str, Path]:
    return {
        label: _save(picture, out / f"{request.id}-{label.replace(' ', '-')}.png")
        for label, picture in pictures.items()
    }


def _save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")  # on a full disk an earlier picture stays
    try:
        picture.save(part, "PNG")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path
