"""Prompts that those of a memory are compared with, and ordinary ones to average over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from probes.errors import AuditError
from probes.inputs.prompts import read_prompts
from probes.testbed.checkpoint import Checkpoint


def base_prompts(base: str, prompts: Sequence[str], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Prompts to compare with: "null", "paraphrase", the testbed's dev "nonmembers" or "scenes", or a prompt file.

    A paraphrase is the prompt's own words in another order: it drives the same words without being the memorized
    sentence, and needs no language model.
    """
    if base == "null":
        return ("",)
    if base == "paraphrase":
        return tuple(reordered(prompt) for prompt in prompts)
    if base in ("nonmembers", "scenes"):
        manifest = checkpoint.truth
        if manifest is None:
            raise AuditError(f"Nobody knows the {base} of {checkpoint.name}: give a file of such prompts with --base.")
        if base == "scenes":
            return tuple(scene.caption for scene in manifest.scenes(split="dev"))
        return tuple(item.captions[0] for item in manifest.nonmembers(split="dev"))
    return tuple(target.prompt for target in read_prompts(Path(base)))


def ordinary_prompts(checkpoint: Checkpoint) -> list[str]:
    """The testbed's dev non-members and scenes, in turn. AuditError for a model nothing is known about."""
    manifest = checkpoint.truth
    if manifest is None:
        raise AuditError(f"Nobody knows the ordinary prompts of {checkpoint.name}: give a file of them.")
    nonmembers = [item.captions[0] for item in manifest.nonmembers(split="dev")]
    scenes = [scene.caption for scene in manifest.scenes(split="dev")]
    pairs = [caption for both in zip(nonmembers, scenes, strict=False) for caption in both]
    return pairs or nonmembers or scenes


def reordered(prompt: str) -> str:
    """The words in another order, the same one every time; a prompt of one word stays."""
    words = prompt.split()
    shuffled = words.copy()
    draw = random.Random(prompt)
    for _ in range(10):
        draw.shuffle(shuffled)
        if shuffled != words:
            break
    return " ".join(shuffled)
