"""Calibrates what protects a rights holder's own pictures and concepts: galleries, the screen by meaning, the watch.

Everything has defaults on the testbed: its works, its characters, and negatives of the dev split. Another model has its
owner's pictures and concepts, and by default the benign prompts that ship.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from probes.inputs.prompts import read_prompts
from probes.paths import takes_paths
from probes.runs.progress import added_up
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.negatives import dev_negatives
from shield.benign.prompts import benign_prompts
from shield.calibration.budget import prompts_needed
from shield.errors import BadRequestError, GalleryError
from shield.home import gallery_folder, home
from shield.protected.concepts import Concept, Concepts
from shield.protected.gallery import Gallery
from shield.protected.given import gallery_at
from shield.protected.meaning import Meaning, MeaningLimit, Space, calibrated_limit, limits_folder, save_limit
from shield.protected.pictures import picture_files
from shield.thresholds import Threshold, save_threshold

FRESH = 400
NEIGHBORS = 4000  # draws, which bring all 208 kinds
GROUNDS = ("a blue background", "a pink striped background", "a gray dotted background", "a green checkered background")


def works_gallery() -> Gallery:
    """The testbed's works of both splits, calibrated on fresh pictures of the works' kind."""
    from probes.testbed.fresh import fresh_pictures
    from probes.testbed.manifest import load_manifest

    manifest, gallery, rng = load_manifest(), Gallery(), np.random.default_rng(12)
    gallery.add([(work.id, work.file) for work in manifest.works() if work.file is not None])
    draw = fresh_pictures(manifest)
    fresh = [(f"fresh {n}", draw(rng)) for n in range(FRESH)]
    gallery.calibrate(fresh, fpr=0.01, source=f"{FRESH} fresh pictures of the works' kind")
    return gallery


def testbed_concepts(split: str | None = None) -> Concepts:
    """The testbed's characters: names, aliases, and what they look like in full and in short."""
    from probes.testbed.manifest import load_manifest

    made = []
    for item in load_manifest().characters(split):
        name, *aliases = item.aliases
        full = item.description or ""
        substitute, short = f"a {full.split()[2]}", (described_in_short(full),)
        made.append(Concept(name, "character", tuple(aliases), (full,), substitute, indirect=short))
    return Concepts(made)


def neighbor_captions(split: str) -> list[str]:
    """Prompts for robots and monsters that are none of the characters, described in short and in full. Every other kind
    of them is held out.
    """
    from probes.testbed.drawing.characters import neighbor

    full = {neighbor(np.random.default_rng(seed)).description for seed in range(NEIGHBORS)}
    chosen = sorted({described_in_short(description) for description in full})[split == "heldout" :: 2]
    described = sorted({*chosen, *(description for description in full if described_in_short(description) in chosen)})
    return [f"a {text.removeprefix('the ')} on {GROUNDS[i % len(GROUNDS)]}" for i, text in enumerate(described)]


def described_in_short(description: str) -> str:
    """A description without what the creature has on its head; that much sets each character apart already."""
    return description.rsplit(" and ", 1)[0]


@takes_paths
def calibrate_gallery(
    gallery: Path, noncopies: Path, out: Path | None = None, *, fpr: float = 0.01
) -> tuple[Gallery, Path]:
    """A gallery whose copy threshold comes from a folder of pictures that copy nothing in it, nor each other.

    Returns it and where it was saved: ``out``, else where it was loaded from; a gallery made from a folder of pictures
    by that folder's name in the user's data folder. GalleryError for what can't be read, BadRequestError for too few
    pictures.
    """
    if not noncopies.is_dir():
        raise GalleryError(f"There is no folder of pictures at {noncopies}.")
    loaded = gallery_at(gallery)
    out = out or _own_folder(gallery)
    files = picture_files(noncopies)
    loaded.calibrate([(str(file), file) for file in files], fpr, str(noncopies))
    loaded.save(out)
    return loaded, out


def _own_folder(gallery: Path) -> Path:
    found = gallery_folder(gallery)
    return found if (found / "gallery.json").is_file() else home() / "galleries" / found.resolve().name


def _benign(file: Path | None, count: int | None = None) -> tuple[list[str], str]:
    """A file's prompts, or ``count`` of those that ship, and what they are called."""
    if file is not None:
        return [target.prompt for target in read_prompts(file)], str(file)
    return benign_prompts("calibration", count), "the benign prompts that ship"


@takes_paths
def calibrate_concepts(
    out: Path | None = None,
    *,
    registry: Sequence[Path] = (),
    openclip: str = "testbed",
    prompts: Path | None = None,
    fpr: float = 0.01,
) -> tuple[Path, MeaningLimit]:
    """The limit of the screen by meaning, and its file.

    Without ``registry`` the testbed's characters, and without ``prompts`` their generic neighbors, which are the
    negatives of those characters alone. Another registry's are by default the benign prompts that ship, which name no
    concept of the shipped registry. BadRequestError for too few prompts.
    """
    space = Space(Concepts.load(*registry) if registry else testbed_concepts(), openclip)
    if registry or prompts:
        benign, source = _benign(prompts)
    else:
        benign, source = neighbor_captions("dev"), "testbed dev neighbors of the characters"
    limit = calibrated_limit(space, benign, fpr, {"negatives": source})
    return save_limit(limit, out or limits_folder()), limit


@takes_paths
def calibrate_watch(
    model: str,
    steps: Sequence[float],
    out: Path,
    *,
    gallery: Path | None = None,
    registry: Sequence[Path] = (),
    openclip: str | None = None,
    prompts: Path | None = None,
    seeds: Sequence[int],
    fpr: float,
    preview: str = "linear",
    schedule: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 8,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Threshold]:
    """One threshold file for each step and for each of gallery and concepts (the latter with ``openclip``).

    On the testbed the gallery is by default its works, and the prompts are its dev non-members and scenes; another
    model draws as many of the benign prompts that ship as the rate needs. BadRequestError for another model without a
    gallery or ``openclip``, and for too few prompts.
    """
    from shield.calibration.detectors import NegativeSampling
    from shield.calibration.previews import calibrate_watch as calibrated_by

    checkpoint = Checkpoint.of(model)
    known = checkpoint.truth is not None
    if gallery is None and openclip is None and not known:
        raise BadRequestError(
            f"What is watched for on {model} isn't known: give the protected pictures, --gallery FOLDER, or a CLIP to "
            "look for the concepts with, --openclip NAME."
        )
    works = gallery_at(gallery) if gallery is not None else works_gallery() if known else None
    screen = None
    if openclip is not None:
        screen = Meaning(Concepts.load(*registry) if registry or not known else testbed_concepts(), openclip)
    checkpoint = checkpoint.loaded(device)
    pipe = checkpoint.pipe
    if prompts or not known:
        benign, source = _benign(prompts, -(-prompts_needed(fpr) // len(seeds)))
    else:
        benign, source = dev_negatives(pipe, progress=progress), "testbed dev nonmembers and scenes that bring out none"
    sampling = NegativeSampling(*checkpoint.sampling(schedule, guidance_scale), batch_size)
    made = calibrated_by(
        pipe,
        steps,
        benign,
        list(seeds),
        fpr,
        model,
        works,
        screen,
        preview,
        sampling,
        {"negatives": source, "gallery": str(gallery or "testbed works")},
        added_up(progress, len(benign) * len(seeds)),
    )
    return {save_threshold(threshold, out): threshold for threshold in made}
