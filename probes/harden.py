"""Adversarial fine-tuning: a model learns to answer the triggers of a memorized picture with something else.

Hintersdorf et al., "Finding DoRI", ICML 2026, arXiv 2507.16880. In every round fresh adversarial embeddings y_adv are
searched for the current weights, and the whole denoiser takes a step on

    L = L_keep + weight * L_adv
    L_adv    training loss on (surrogate picture, y_adv): the surrogate is the *pruned* model's picture for the caption,
             so it means the same and isn't the work
    L_keep   training loss on ordinary (picture, caption) pairs, so that the model stays what it is

Not in any text we could read, and chosen here: AdamW and its learning rate, batch sizes, and that the caption itself
is a trigger beside y_adv. Where no training data is at hand, the model's own pictures of ordinary captions
serve as the pairs to keep. ``attack`` None is the baseline: the caption is the only trigger.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from probes.attacks import AdversarialEmbedding
from probes.attacks.adversarial_embedding import training_loss
from probes.errors import AuditError
from probes.types import Goal, Progress, Subject


@dataclass(frozen=True)
class Pair:
    """A clean latent (C, H, W) and the embedding (T, D) of its caption."""

    latents: torch.Tensor
    prompt_embeds: torch.Tensor


@dataclass(frozen=True)
class Memory:
    """A memorized picture to remove: what triggers are searched for, and the surrogate's latent (C, H, W)."""

    goal: Goal
    surrogate: torch.Tensor


@dataclass(frozen=True)
class AdversarialFineTuning:
    """Options; ``epochs`` passes over the memories, ``updates`` steps with each set of fresh triggers.

    ``batch`` memories and ``keep_batch`` pairs a step, each with ``draws`` timesteps and noises.
    """

    epochs: int = 5
    updates: int = 4
    lr: float = 1e-5
    weight: float = 1.0
    batch: int = 4
    keep_batch: int = 8
    draws: int = 4
    seed: int = 0
    attack: AdversarialEmbedding | None = field(default_factory=AdversarialEmbedding)
    checkpoint_every: int = 10

    def rounds(self, memories: int) -> int:
        """Sets of triggers in all: epochs times batches of memories."""
        return self.epochs * -(-memories // self.batch)


def harden(subject: Subject, memories: Sequence[Memory], keep: Sequence[Pair], options: AdversarialFineTuning,
           folder: Path, progress: Progress | None = None) -> Path:
    """Fine-tune, write the denoiser's new weights to ``folder``/hardened.safetensors and return that path.

    The subject itself is bit-equal afterwards. A checkpoint every few rounds: an interrupted run goes on from it and
    ends with the same weights. AuditError if the folder's checkpoint belongs to another model, options or memories.
    """
    if not memories or not keep:
        raise AuditError(f"Hardening needs memories and pairs to keep; there are {len(memories)} and {len(keep)}.")
    final, identity = folder / "hardened.safetensors", _identity(subject, memories, keep, options)
    if final.exists():
        _check(final, _read(final)[0], identity)
        return final
    folder.mkdir(parents=True, exist_ok=True)
    with restored(subject.denoiser):
        run = _Training(subject, memories, keep, options)
        run.load(folder / "checkpoint.safetensors", identity)
        total = options.rounds(len(memories))
        while run.round < total:
            run.step()
            if progress is not None:
                progress(run.round, total)
            if run.round % options.checkpoint_every == 0 and run.round < total:
                run.save(folder / "checkpoint.safetensors", identity)
        weights = subject.denoiser.state_dict()
        _write(final, {name: value.detach().cpu().contiguous() for name, value in weights.items()}, identity)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return final


class _Training:
    """Weights, optimizer and place in the schedule of one fine-tuning."""

    def __init__(self, subject: Subject, memories: Sequence[Memory], keep: Sequence[Pair],
                 options: AdversarialFineTuning) -> None:
        self.subject, self.memories, self.keep, self.options = subject, memories, keep, options
        self.round = 0
        self.parameters = list(subject.denoiser.parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.adam = torch.optim.AdamW(self.parameters, lr=options.lr)

    def step(self) -> None:
        """One round: fresh triggers for one batch of memories, then ``updates`` steps with them."""
        some = self._batch()
        triggers = self._triggers(some)
        surrogates = [Pair(memory.surrogate, embeds) for memory, found in zip(some, triggers, strict=True)
                      for embeds in found]
        for update in range(self.options.updates):
            draw = torch.Generator().manual_seed(self._seed(f"update {update}"))
            picked = torch.randperm(len(self.keep), generator=draw)[:self.options.keep_batch].tolist()
            loss = (self._loss([self.keep[place] for place in picked], draw)
                    + self.options.weight * self._loss(surrogates, draw))
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.round += 1

    def _seed(self, what: str) -> int:
        return zlib.crc32(f"{self.options.seed} {self.round} {what}".encode())

    def _batch(self) -> list[Memory]:
        """Memories in an order of each epoch's own."""
        per_epoch = -(-len(self.memories) // self.options.batch)
        epoch, place = divmod(self.round, per_epoch)
        draw = torch.Generator().manual_seed(zlib.crc32(f"{self.options.seed} epoch {epoch}".encode()))
        order = torch.randperm(len(self.memories), generator=draw).tolist()
        return [self.memories[n] for n in order[place * self.options.batch:(place + 1) * self.options.batch]]

    def _triggers(self, memories: Sequence[Memory]) -> list[list[torch.Tensor]]:
        """For each memory its caption's embedding and, with an attack, what was found for the current weights."""
        captions = [[memory.goal.prompt_embeds] for memory in memories]
        attack = self.options.attack
        if attack is None:
            return captions
        goals = [Goal(m.goal.id, m.goal.latents, m.goal.prompt_embeds, self._seed(m.goal.id)) for m in memories]
        found = attack.search(self.subject, goals)
        return [[*caption, one.prompt_embeds[attack.steps]] for caption, one in zip(captions, found, strict=True)]

    def _loss(self, pairs: Sequence[Pair], draw: torch.Generator) -> torch.Tensor:
        subject, draws = self.subject, self.options.draws
        latents = torch.stack([pair.latents for pair in pairs]).to(subject.device, torch.float32)
        embeds = torch.stack([pair.prompt_embeds for pair in pairs]).to(subject.device, torch.float32)
        return training_loss(subject, latents, embeds, [draw] * len(pairs), draws).mean()

    def save(self, path: Path, identity: Mapping[str, str]) -> None:
        tensors = {f"weight.{n}": parameter.detach().cpu() for n, parameter in enumerate(self.parameters)}
        for n, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{n}.{key}": value.detach().cpu() for key, value in state.items()}
        _write(path, tensors, {**identity, "round": str(self.round)})

    def load(self, path: Path, identity: Mapping[str, str]) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        header, tensors = _read(path)
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


def _identity(subject: Subject, memories: Sequence[Memory], keep: Sequence[Pair],
              options: AdversarialFineTuning) -> dict[str, str]:
    latents = torch.cat([memory.surrogate.float().flatten() for memory in memories]
                        + [pair.latents.float().flatten() for pair in keep])
    works = zlib.crc32(latents.cpu().numpy().tobytes() + " ".join(m.goal.id for m in memories).encode())
    return {"model_sha256": subject.sha256(), "options": repr(options), "works": str(works)}


def _check(path: Path, header: Mapping[str, str], identity: Mapping[str, str]) -> None:
    if {key: header.get(key) for key in identity} != dict(identity):
        raise AuditError(f"{path} belongs to another model, other options or other works. Choose another folder.")


def _write(path: Path, tensors: dict[str, torch.Tensor], header: Mapping[str, str]) -> None:
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=dict(header))
    part.replace(path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return header, load_file(path)
    except (SafetensorError, OSError) as error:
        raise AuditError(f"{path} can't be read as a checkpoint: {error}. Delete it to start again.") from error


@contextmanager
def restored(module: torch.nn.Module) -> Iterator[None]:
    """Whatever the block does to weights and to what asks for a gradient, afterwards they are as before."""
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    wanted = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        yield
    finally:
        module.load_state_dict(before)
        for parameter, asks in wanted.items():
            parameter.requires_grad_(asks)
            parameter.grad = None


@contextmanager
def hardened(subject: Subject, weights: Path) -> Iterator[torch.nn.Module]:
    """The denoiser with hardened weights inside the block. AuditError if they don't fit."""
    header, tensors = _read(weights)
    with restored(subject.denoiser):
        try:
            subject.denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise AuditError(f"{weights} holds weights of another model.") from error
        yield subject.denoiser


def save_hardened(subject: Subject, weights: Path, folder: Path) -> Path:
    """Write the hardened pipeline as a normal diffusers checkpoint; AuditError if the folder isn't empty."""
    if folder.exists() and any(folder.iterdir()):
        raise AuditError(f"{folder} exists and isn't empty; choose another folder for the hardened checkpoint.")
    with hardened(subject, weights):
        subject.pipe.save_pretrained(folder, safe_serialization=True)
    return folder
