"""A technique and a metric for eval-unlearn (https://pypi.org/project/eval-unlearn/), found by its entry points.

eval-unlearn runs a technique on the prompts of a metric and hands the metric the pictures; none of its own metrics asks
whether pictures are copies. ``diffusion_shield`` draws behind the shield, or with a mask's weights pruned;
``memorization`` is the share of works that come out as copies of themselves, beside matched non-members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from probes.audit.request import mask_file
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord, read_prompts
from probes.inputs.truth import copy_judge
from probes.metrics.statistics import rate_interval
from probes.model.generate import generators, quiet
from probes.pruners import pruned
from probes.report.figures import RateRow, difference
from probes.types import Subject, UnitMask
from shield import Shield
from shield.errors import BadRequestError
from shield.model.loading import load

MEMBER, CONTROL = "members", "nonmembers"


class ShieldTechnique:
    """Draws with ``model`` (a folder or hub id) behind the shield, or with a mask's weights pruned and no shield.

    The options are those of eval-unlearn's technique_config; ``erase_concept`` is theirs and says what the run is
    about. Thresholds are the stored ones; a model without them is calibrated at its first call.
    """

    def __init__(
        self,
        model: str,
        mask: str | None = None,
        device: str = "auto",
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        erase_concept: str | None = None,
    ) -> None:
        self.pipe = load(model, device)
        self.mask = None if mask is None else UnitMask.load(mask_file(Path(mask)))
        self.subject = Subject(self.pipe, model)
        if self.mask is not None:
            self.mask.check(self.subject.denoiser)
        self.shield = Shield(self.pipe) if self.mask is None else None
        self.options = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}

    def generate(self, prompts: Sequence[str], seed: int | None = None, **options: Any) -> list[Image.Image]:
        """One picture for each prompt, number k of seed + k."""
        drawn: Any = self.pipe if self.shield is None else self.shield
        changed = nullcontext() if self.mask is None else pruned(self.subject, self.mask)
        noises = None if seed is None else generators([seed + number for number in range(len(prompts))])
        with quiet(self.pipe), torch.no_grad(), changed:
            return list(drawn(prompt=list(prompts), generator=noises, **{**self.options, **options}).images)


class MemorizationMetric:
    """Share of works that come out as copies, by copies' thresholds that are calibrated on the non-members' pictures.

    ``works`` and ``nonmembers`` are prompt files with a column ``picture``; three non-members at least. The value is
    the works' share; its details have the interval over works, the non-members' share, and the gap between the two.
    """

    def __init__(self, works: str, nonmembers: str, limit: int | None = None, batch_size: int = 16) -> None:
        self.batch_size = batch_size
        self.targets = {MEMBER: _with_pictures(Path(works), limit), CONTROL: _with_pictures(Path(nonmembers), limit)}
        if len(self.targets[CONTROL]) < 3:
            raise BadRequestError(
                f"Copies are told by a threshold from at least three non-members' pictures; {nonmembers} has "
                f"{len(self.targets[CONTROL])} with one (a column picture)."
            )
        pictures = [reference_picture(one) for one in _references(self.targets[CONTROL])]
        self.judge = copy_judge(pictures, "leave-one-out neighbors of the non-members' pictures")
        self.copied: dict[str, list[bool | None]] = {MEMBER: [], CONTROL: []}

    def load_dataset(self) -> list[Any]:
        """Batches of prompts; each says which group a prompt is of and where its picture is."""
        from eval_unlearn.types import Dataset

        self.copied = {MEMBER: [], CONTROL: []}
        every = [(group, one) for group, some in self.targets.items() for one in some]
        return [
            Dataset(
                prompts=[one.prompt for _, one in part],
                metadata={
                    "source": "memorization",
                    "categories": [group for group, _ in part],
                    "pictures": [str(one.reference) for _, one in part],
                },
            )
            for part in (every[start : start + self.batch_size] for start in range(0, len(every), self.batch_size))
        ]

    def update(self, images: Sequence[Any], prompts: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Judge each picture against its own work."""
        drawn = [image if isinstance(image, Image.Image) else reference_picture(Path(image)) for image in images]
        references = [reference_picture(Path(file)) for file in metadata["pictures"]]
        judged = self.judge.judge([image.convert("RGB") for image in drawn], references)
        for group, one in zip(metadata["categories"], judged, strict=True):
            self.copied[group].append(one.copied)

    def compute(self) -> Any:
        """A MetricResult; its value is None where nothing could be judged."""
        from eval_unlearn.types import MetricResult

        rows = {group: _rate(found) for group, found in self.copied.items()}
        return MetricResult(
            name="Memorization",
            value=rows[MEMBER]["rate"],
            details={**rows, "gap": difference(rows[MEMBER], rows[CONTROL]), "criterion": self.judge.describe()},
        )


def _with_pictures(file: Path, limit: int | None) -> list[PromptRecord]:
    return [one for one in read_prompts(file, limit=limit) if one.reference is not None]


def _references(targets: Sequence[PromptRecord]) -> list[Path]:
    return [one.reference for one in targets if one.reference is not None]


def _rate(copied: Sequence[bool | None]) -> RateRow:
    """One picture for each work, so that pictures are works."""
    judged = [one for one in copied if one is not None]
    found = rate_interval(judged, list(range(len(judged)))) if judged else None
    return {
        "n": len(judged),
        "works": len(judged),
        "unscored": len(copied) - len(judged),
        "copied": sum(judged),
        "rate": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
    }
