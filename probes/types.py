"""What the probes pass to each other: a subject, a mask of weights, an attack's goal and what it found.

Letters in shapes: B images, C/H/W latent channels and sides, T text tokens, D width of a token embedding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError, safe_open

from probes.errors import MaskError
from probes.runs.progress import ProgressCallback
from probes.runs.tensors import write_tensors
from shield.errors import reason_of
from shield.hooks.intercept import denoiser_of
from shield.model.fingerprint import model_sha256
from shield.model_names import introduce, values_of

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_VALUES = "model_values"  # in a mask's meta: what its model is known by


@dataclass(frozen=True)
class Subject:
    """The model an audit works on: a diffusers pipeline and what it is called."""

    pipe: Any
    name: str

    @property
    def denoiser(self) -> torch.nn.Module:
        """The UNet or transformer that predicts the noise; UnsupportedPipelineError for an unknown pipeline."""
        return denoiser_of(self.pipe)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    def sha256(self) -> str:
        """Fingerprint of the denoiser's weights as they are now, the same in every precision."""
        return model_sha256(self.denoiser)


@dataclass(frozen=True)
class UnitMask:
    """Which weights of which modules: module path -> bool tensor in the shape of that module's ``weight``.

    A localizer makes it, a pruner uses it; neither knows the other. ``meta`` says where it comes from (strings only).
    """

    masks: Mapping[str, torch.Tensor]
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [path for path, mask in self.masks.items() if mask.dtype != torch.bool]
        if wrong:
            raise MaskError(f"A mask needs bool tensors; {wrong[0]} has {self.masks[wrong[0]].dtype}.")

    def count(self) -> int:
        """Number of selected weights."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    def size(self) -> int:
        """Number of weights the mask speaks about."""
        return sum(mask.numel() for mask in self.masks.values())

    def density(self) -> float:
        """Selected share of the weights, 0 to 1; 0 for a mask without modules."""
        return self.count() / self.size() if self.size() else 0.0

    def densities(self) -> dict[str, float]:
        """Selected share for each module, in the mask's order."""
        return {path: float(mask.float().mean()) for path, mask in self.masks.items()}

    def _combine(self, other: UnitMask, combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> UnitMask:
        combined = {}
        for path in dict.fromkeys([*self.masks, *other.masks]):
            one, two = self.masks.get(path), other.masks.get(path)
            if one is not None and two is not None and one.shape != two.shape:
                raise MaskError(f"{path} has shape {tuple(one.shape)} in one mask and {tuple(two.shape)} in the other.")
            known = one if one is not None else two
            assert known is not None
            empty = torch.zeros_like(known)
            combined[path] = combine(empty if one is None else one, empty if two is None else two)
        return UnitMask(combined)

    def union(self, other: UnitMask) -> UnitMask:
        """Weights in either mask; a module that only one of them names counts as empty in the other."""
        return self._combine(other, torch.logical_or)

    def intersection(self, other: UnitMask) -> UnitMask:
        """Weights in both masks."""
        return self._combine(other, torch.logical_and)

    def iou(self, other: UnitMask) -> float | None:
        """Intersection over union of the two sets of weights; None if both are empty (0/0 is no agreement)."""
        union = self.union(other).count()
        return self.intersection(other).count() / union if union else None

    def save(self, path: Path) -> None:
        """Write as safetensors (one byte a weight) with ``meta`` in its header; replaces the file in one step."""
        tensors = {name: mask.to(torch.uint8) for name, mask in self.masks.items()}
        values = values_of(self.meta.get("model_sha256", ""))
        meta = {**self.meta, **({} if values is None else {MODEL_VALUES: values})}
        write_tensors(path, tensors, {"unit_mask": "1", "meta": json.dumps(meta)})

    @classmethod
    def load(cls, path: Path) -> UnitMask:
        """Read a saved mask; MaskError if the file is missing, damaged or no mask."""
        if not path.is_file():
            raise MaskError(f"There is no mask at {path}. Make one with: diffshield localize.")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("unit_mask") != "1":
                    raise MaskError(f"{path} is a safetensors file but not a mask written by diffshield localize.")
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys(), key=natural_order)}
                meta = json.loads(header["meta"])
            if any(tensor.dtype not in (torch.uint8, torch.bool) for tensor in tensors.values()):
                raise ValueError("its tensors aren't bytes")
            if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
                raise ValueError("its meta isn't a table of texts")
            values = meta.pop(MODEL_VALUES, None)
            if "model_sha256" in meta:
                introduce(meta["model_sha256"], values)
            return cls({name: tensor.bool() for name, tensor in tensors.items()}, meta)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise MaskError(f"{path} can't be read as a mask: {reason_of(error)}") from error

    def check(self, denoiser: torch.nn.Module) -> None:
        """MaskError unless every module of the mask exists in the denoiser with a weight of that shape."""
        modules = dict(denoiser.named_modules())
        for path, mask in self.masks.items():
            weight = getattr(modules.get(path), "weight", None)
            if weight is None:
                raise MaskError(f"This mask is for another model: it names {path}, which this one doesn't have.")
            if weight.shape != mask.shape:
                raise MaskError(
                    f"This mask is for another model: {path} has shape {tuple(weight.shape)} here and "
                    f"{tuple(mask.shape)} in the mask."
                )


def natural_order(path: str) -> list[tuple[int, str]]:
    """Sort key that puts "block.10" after "block.2"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.split(".")]


@dataclass(frozen=True)
class Located:
    """A localizer's answer: the mask and what it cost (denoiser calls, each for one image)."""

    mask: UnitMask
    evaluations: int


@dataclass(frozen=True)
class Goal:
    """What an attack wants back: one picture as a clean latent (C, H, W), and the embedding (T, D) to start from.

    ``seed`` decides every random number of this goal's search, so that it doesn't depend on the batch it runs in.
    ``prompt`` is the words that the embedding is one of; "" where it is none's.
    """

    id: str
    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    seed: int
    prompt: str = ""


@dataclass(frozen=True)
class SearchResult:
    """What an attack found for one goal: embeddings (T, D) at some numbers of steps. Says nothing about success.

    ``prompts`` are the words that they are embeddings of, where the attack searched words.
    """

    id: str
    prompt_embeds: Mapping[int, torch.Tensor]
    losses: Sequence[float]
    evaluations: int
    prompts: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A clean latent (C, H, W) and the embedding (T, D) that it should be the answer to."""

    latents: torch.Tensor
    prompt_embeds: torch.Tensor


@dataclass(frozen=True)
class Memory:
    """A memorized picture to remove: what an attack wants back, and the surrogate's clean latent (C, H, W)."""

    goal: Goal
    surrogate: torch.Tensor


@dataclass(frozen=True)
class Judgement:
    """A criterion's verdict on one picture. ``copied`` None means it couldn't judge, and ``unjudged`` says why."""

    scores: Mapping[str, float | None]
    copied: bool | None
    unjudged: str | None = None


class Localizer(Protocol):
    """Finds the weights behind a set of prompts. Leaves the subject bit-equal."""

    name: ClassVar[str]

    def locate(
        self, subject: Subject, prompts: Sequence[str], *, seed: int = 0, progress: ProgressCallback | None = None
    ) -> Located: ...


class Pruner(Protocol):
    """What becomes of the selected weights."""

    name: ClassVar[str]

    def edited(self, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The new weight, same shape and dtype; the argument stays as it is."""


class Attack(Protocol):
    """Searches prompt embeddings that make the subject reproduce each goal. Never judges its own success.

    ``steps`` is what it spends on a goal, ``evaluations`` what that costs in denoiser evaluations.
    """

    name: ClassVar[str]

    @property
    def steps(self) -> int: ...

    @property
    def evaluations(self) -> int: ...

    def search(
        self,
        subject: Subject,
        goals: Sequence[Goal],
        *,
        snapshots: Sequence[int],
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]: ...


class Hardener(Protocol):
    """Teaches a denoiser to answer what brings memories back with something else.

    ``trains`` is a regular expression on names of parameters ("" for all); ``has_teacher`` asks for the original,
    ``needs_keep`` for ordinary pairs.
    """

    name: ClassVar[str]
    trains: ClassVar[str]
    needs_keep: ClassVar[bool]

    @property
    def has_teacher(self) -> bool: ...

    def lesson(self, subject: Subject, memories: Sequence[Memory], number: Callable[[str], int]) -> Any:
        """What the updates of one round share. ``number`` makes this round's seeds out of names."""

    def loss(
        self,
        subject: Subject,
        teacher: torch.nn.Module | None,
        lesson: Any,
        keep: Sequence[Pair],
        draw: torch.Generator,
    ) -> torch.Tensor:
        """Scalar loss of one update; every random number comes from ``draw``."""


class Criterion(Protocol):
    """Decides whether a picture is a copy of a reference."""

    @property
    def name(self) -> str: ...

    def judge(self, pictures: Sequence[Image], references: Sequence[Image | None]) -> list[Judgement]: ...
