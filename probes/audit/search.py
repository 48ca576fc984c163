"""Adversarial embeddings of many works, one file for each: a search that was stopped goes on where it was."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from probes.attacks import AnySearch
from probes.attacks.adversarial_embedding import initial_embeds
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.model.generate import encode_pictures
from probes.runs.progress import ProgressCallback
from probes.runs.tensors import read_tensors, write_tensors
from probes.types import Goal, SearchResult, Subject


@dataclass(frozen=True)
class Searches:
    """The searches of one stage. ``init`` is "caption", "noise" (normal, of each work's own) or "other" (a prompt)."""

    folder: Path
    attack: AnySearch
    snapshots: tuple[int, ...]
    init: str = "caption"
    other: str | None = None

    def file(self, target: PromptRecord) -> Path:
        return self.folder / f"{target.id}.safetensors"

    def embeds(self, target: PromptRecord) -> dict[int, torch.Tensor]:
        """Number of steps -> embedding (T, D), of a target that was searched."""
        _, stored = read_tensors(self.file(target))
        return {int(steps): embeds for steps, embeds in stored.items() if steps.isdigit()}

    def prompts(self, target: PromptRecord) -> dict[int, str]:
        """Number of steps -> the words found, of a target that was searched; empty where embeddings were."""
        header, _ = read_tensors(self.file(target))
        return {int(steps): text for steps, text in json.loads(header.get("prompts", "{}")).items()}

    def search(self, subject: Subject, targets: Sequence[PromptRecord], progress: ProgressCallback) -> None:
        """Search what isn't there yet. Every target needs a reference picture; PromptFileError if it is broken."""
        together = max(1, self.attack.rows // self.attack.batch)
        for start in range(0, len(targets), together):
            group = targets[start : start + together]
            if not all(self.file(target).exists() for target in group):
                found = self.attack.search(subject, self.goals(subject, group), snapshots=self.snapshots)
                for target, one in zip(group, found, strict=True):
                    self._save(target, one)
            progress(start + len(group), len(targets))

    def goals(self, subject: Subject, targets: Sequence[PromptRecord]) -> list[Goal]:
        latents = encode_pictures(subject, [reference_picture(t.reference) for t in targets if t.reference is not None])
        embeds = self._starts(subject, targets)
        words = [target.prompt if self.init == "caption" else (self.other or "") for target in targets]
        return [
            Goal(target.id, latents[row], embeds[row], _number(target.id), words[row])
            for row, target in enumerate(targets)
        ]

    def _starts(self, subject: Subject, targets: Sequence[PromptRecord]) -> torch.Tensor:
        if self.init != "noise":
            return initial_embeds(subject, self.init, [t.prompt for t in targets], seed=0, other=self.other)
        # Of the work's name, not its place, so that the start doesn't depend on who else is searched.
        return torch.cat([initial_embeds(subject, "noise", [t.prompt], seed=_number(f"start {t.id}")) for t in targets])

    def _save(self, target: PromptRecord, found: SearchResult) -> None:
        embeds = {str(steps): value for steps, value in found.prompt_embeds.items()}
        words = {"prompts": json.dumps({str(steps): text for steps, text in found.prompts.items()})}
        write_tensors(
            self.file(target), {**embeds, "losses": torch.tensor(found.losses)}, words if found.prompts else None
        )


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
