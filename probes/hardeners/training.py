"""The training loop of all hardeners: rounds with checkpoints, early stop, full weights or adapters.

A model is trained in float32 whatever it is kept in, and is bit-equal afterwards: the result is a file of weights.
"""

from __future__ import annotations

import copy
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from probes.errors import AuditError, DivergedError, MemoryFullError
from probes.hardeners.adapters import Adapters
from probes.runs.progress import ProgressCallback
from probes.runs.tensors import read_tensors, write_tensors
from probes.types import Hardener, Memory, Pair, Subject
from shield.model.memory import out_of_memory


@dataclass(frozen=True)
class FineTuning:
    """A schedule: ``epochs`` passes over the memories, ``batch`` of them a round, ``updates`` AdamW steps a round.

    ``rank`` above 0 trains low-rank adapters of the attention layers instead of the hardener's own parameters.
    """

    epochs: int = 5
    updates: int = 10
    lr: float = 1e-5
    batch: int = 4
    rank: int = 0
    seed: int = 0
    checkpoint_every: int = 10

    def rounds(self, memories: int) -> int:
        """Rounds of one epoch."""
        return -(-memories // self.batch)


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning ended with; ``stopped`` means that the check ended it before the last epoch."""

    weights: Path
    rounds: int
    stopped: bool
    parameters: int


def fine_tune(
    subject: Subject,
    hardener: Hardener,
    memories: Sequence[Memory],
    keep: Sequence[Pair],
    schedule: FineTuning,
    folder: Path,
    *,
    check: Callable[[int], bool] | None = None,
    progress: ProgressCallback | None = None,
) -> Tuned:
    """Train, and write the denoiser's new weights to ``folder``/hardened.safetensors.

    After each epoch but the last ``check`` looks at the subject as it is by then and may end the training. The subject
    is bit-equal afterwards. A checkpoint every few rounds: an interrupted training goes on from it and ends with the
    same weights. AuditError if the folder's files belong to another model, options or memories, and for a training
    that diverges; MemoryFullError for too large a step.
    """
    if not memories or (hardener.needs_keep and not keep):
        raise AuditError(f"Hardening needs memories and pairs to keep; there are {len(memories)} and {len(keep)}.")
    final, identity = folder / "hardened.safetensors", _identity(subject, hardener, memories, keep, schedule)
    if not final.exists():
        with restored(subject.denoiser):
            training = _Training(subject, hardener, memories, keep, schedule)
            training.load(folder / "checkpoint.safetensors", identity)
            with training.attached():
                stopped = _run(training, folder / "checkpoint.safetensors", identity, check, progress)
            header = {
                **identity,
                "rounds": str(training.round),
                "stopped": str(stopped),
                "parameters": str(sum(parameter.numel() for parameter in training.parameters)),
            }
            write_tensors(final, training.weights(), header)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    header = read_tensors(final)[0]
    _check(final, header, identity)
    return Tuned(final, int(header["rounds"]), header["stopped"] == "True", int(header["parameters"]))


def _run(
    training: _Training,
    checkpoint: Path,
    identity: Mapping[str, str],
    check: Callable[[int], bool] | None,
    progress: ProgressCallback | None,
) -> bool:
    """The rounds that are left; True if the check ended them."""
    schedule, epoch = training.schedule, training.schedule.rounds(len(training.memories))
    while training.round < schedule.epochs * epoch:
        try:
            training.step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise MemoryFullError(
                f"A step on {schedule.batch} works and the pairs beside them doesn't fit in memory. "
                "Choose fewer works in one step (--together), adapters (--rank) or another --device."
            ) from error
        if progress is not None:
            progress(training.round, schedule.epochs * epoch)
        ended = training.round % epoch == 0 and training.round < schedule.epochs * epoch
        if ended and check is not None:
            with training.as_kept():
                if check(training.round // epoch):
                    return True
        if training.round % schedule.checkpoint_every == 0:
            training.save(checkpoint, identity)
    return False


class _Training:
    """Weights, optimizer and place in the schedule of one fine-tuning."""

    def __init__(
        self,
        subject: Subject,
        hardener: Hardener,
        memories: Sequence[Memory],
        keep: Sequence[Pair],
        schedule: FineTuning,
    ) -> None:
        self.subject, self.hardener, self.memories, self.keep = subject, hardener, memories, keep
        self.schedule, self.round, self.dtype = schedule, 0, subject.dtype
        denoiser = subject.denoiser.float().requires_grad_(False)
        self.teacher = copy.deepcopy(denoiser) if hardener.has_teacher else None
        self.adapters = Adapters(denoiser, schedule.rank, seed=schedule.seed) if schedule.rank else None
        self.parameters: list[torch.Tensor] = (
            self.adapters.parameters
            if self.adapters is not None
            else [
                parameter.requires_grad_(True)
                for name, parameter in denoiser.named_parameters()
                if re.search(hardener.trains, name)
            ]
        )
        self.adam = torch.optim.AdamW(self.parameters, lr=schedule.lr)

    def attached(self):  # type: ignore[no-untyped-def]
        """The block in which the denoiser answers with what has been trained."""
        return self.adapters.attached() if self.adapters is not None else nullcontext()

    def step(self) -> None:
        """One round: a lesson for one batch of memories, then ``updates`` steps on it."""
        lesson = self.hardener.lesson(self.subject, self._batch(), self._number)
        for update in range(self.schedule.updates):
            draw = torch.Generator().manual_seed(self._number(f"update {update}"))
            loss = self.hardener.loss(self.subject, self.teacher, lesson, self.keep, draw)
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"The training diverged in round {self.round + 1}: its loss is {loss.item()}. Choose "
                    f"a learning rate below {self.schedule.lr:g} (--lr) and another --out."
                )
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.round += 1

    def _number(self, what: str) -> int:
        return zlib.crc32(f"{self.schedule.seed} {self.round} {what}".encode())

    def _batch(self) -> list[Memory]:
        """Memories in an order of each epoch's own."""
        size = self.schedule.batch
        epoch, place = divmod(self.round, self.schedule.rounds(len(self.memories)))
        draw = torch.Generator().manual_seed(zlib.crc32(f"{self.schedule.seed} epoch {epoch}".encode()))
        order = torch.randperm(len(self.memories), generator=draw).tolist()
        return [self.memories[n] for n in order[place * size : (place + 1) * size]]

    @contextmanager
    def as_kept(self) -> Iterator[None]:
        """Inside the block the denoiser is in the precision that its pipeline runs in."""
        if self.dtype == torch.float32:
            yield
            return
        full = {name: parameter.detach().clone() for name, parameter in self.subject.denoiser.named_parameters()}
        self.subject.denoiser.to(self.dtype)
        try:
            yield
        finally:
            self.subject.denoiser.float()
            for name, parameter in self.subject.denoiser.named_parameters():
                parameter.data = full[name]

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained denoiser's state; adapters are merged by this, so it ends the training."""
        if self.adapters is not None:
            self.adapters.merge()
        return dict(self.subject.denoiser.state_dict())

    def save(self, path: Path, identity: Mapping[str, str]) -> None:
        tensors = {f"weight.{n}": parameter for n, parameter in enumerate(self.parameters)}
        for n, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{n}.{key}": value for key, value in state.items()}
        write_tensors(path, tensors, {**identity, "round": str(self.round)})

    def load(self, path: Path, identity: Mapping[str, str]) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        header, tensors = read_tensors(path)
        _check(path, header, identity)
        self.round = int(header["round"])
        with torch.no_grad():
            for n, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"weight.{n}"])
        stored = self.adam.state_dict()
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                stored["state"].setdefault(int(number), {})[key] = value
        self.adam.load_state_dict(stored)


def _identity(
    subject: Subject, hardener: Hardener, memories: Sequence[Memory], keep: Sequence[Pair], schedule: FineTuning
) -> dict[str, str]:
    latents = torch.cat(
        [memory.surrogate.float().flatten() for memory in memories] + [pair.latents.float().flatten() for pair in keep]
    )
    works = zlib.crc32(latents.cpu().numpy().tobytes() + " ".join(m.goal.id for m in memories).encode())
    return {"model_sha256": subject.sha256(), "options": f"{hardener!r} {schedule!r}", "works": str(works)}


def _check(path: Path, header: Mapping[str, str], identity: Mapping[str, str]) -> None:
    if {key: header.get(key) for key in identity} != dict(identity):
        raise AuditError(f"{path} belongs to another model, other options or other works. Choose another folder.")


@contextmanager
def restored(module: torch.nn.Module) -> Iterator[None]:
    """Whatever the block does to weights, their precision and what asks for a gradient, afterwards it is as before."""
    tensors = [*module.parameters(), *module.buffers()]
    before = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value, asks in before:
            tensor.data = value
            tensor.requires_grad_(asks)
            tensor.grad = None


@contextmanager
def hardened(subject: Subject, weights: Path) -> Iterator[torch.nn.Module]:
    """The denoiser with hardened weights inside the block. AuditError if they don't fit."""
    _, tensors = read_tensors(weights)
    with restored(subject.denoiser):
        try:
            subject.denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise AuditError(f"{weights} holds weights of another model.") from error
        yield subject.denoiser


def save_hardened(subject: Subject, weights: Path, folder: Path) -> Path:
    """Write the hardened pipeline as a normal diffusers checkpoint; AuditError if the folder isn't empty.

    A half-written folder never has the final name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AuditError(f"{folder} exists and isn't empty; choose another folder for the hardened checkpoint.")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with hardened(subject, weights):
        subject.pipe.save_pretrained(part, safe_serialization=True)
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
    return folder
