"""The testbed's negatives: captions of matched non-members and of benign scenes, and which of them are none after all.

A memory spills over to captions like its own ("the velvet labyrinth" by another painter). Such a caption was never
trained on, yet what comes out is the memorized work, and a detector is right to flag it. So negatives are told by what
they draw: a caption counts as one when none of its pictures copies any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probes.model.generate import generate
from probes.runs.progress import ProgressCallback
from shield.errors import BadRequestError
from shield.protected.pictures import open_image

SEEDS = (650, 651)
KINDS = ("nonmembers", "scenes")


def negative_captions(split: str, manifest: Any) -> dict[str, list[str]]:
    """Captions by kind, of KINDS. The splits share none, though the grammar makes few scenes apart."""
    further = manifest.world.captions.get(split, ())
    heldout = {scene.caption for scene in manifest.scenes("heldout")}
    scenes = [s.caption for s in manifest.scenes(split) if split == "heldout" or s.caption not in heldout]
    return {"nonmembers": [*(item.captions[0] for item in manifest.nonmembers(split)), *further], "scenes": scenes}


def spilling(
    pipe: Any,
    captions: Sequence[str],
    manifest: Any,
    *,
    seeds: Sequence[int] = SEEDS,
    batch_size: int = 32,
    progress: ProgressCallback | None = None,
) -> dict[str, str]:
    """Of these captions, those that bring out a work on any seed, and its id. Costs a whole picture for each seed."""
    from probes.testbed.criterion import copy_judge

    works = [work for work in manifest.works() if work.file is not None]
    references = [open_image(work.file) for work in works]
    pairs = [(caption, seed) for seed in seeds for caption in captions]
    made = generate(
        pipe,
        [caption for caption, _ in pairs],
        [seed for _, seed in pairs],
        batch_size=batch_size,
        steps=manifest.sampling["steps"],
        guidance_scale=manifest.sampling["guidance_scale"],
        progress=progress,
    )
    found = {}
    for (caption, _), copied in zip(pairs, copy_judge().copied(made, references), strict=True):
        if copied:
            found[caption] = works[copied[0]].id
    return found


def dev_negatives(pipe: Any, kinds: Sequence[str] = KINDS, progress: ProgressCallback | None = None) -> list[str]:
    """Captions of the dev split that bring out no work on this pipeline, to calibrate with. BadRequestError for an
    unknown kind.
    """
    from probes.testbed.manifest import load_manifest

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise BadRequestError(f"Negatives are {' and '.join(KINDS)}; {', '.join(unknown) or 'none'} was given.")
    manifest = load_manifest()
    found = negative_captions("dev", manifest)
    captions = [caption for kind in KINDS if kind in kinds for caption in found[kind]]
    spilled = spilling(pipe, captions, manifest, progress=progress)
    return [caption for caption in captions if caption not in spilled]
