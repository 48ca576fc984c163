"""One training loop for every part of the testbed: checkpoints, exact resume, a time limit, a log with curves.

A step's data and noise are a function of (seed, step) alone, so a resumed run repeats what an uninterrupted one
would have done, and the twins see the same draws. Checkpoints are safetensors written to a temporary name and
renamed: a kill loses at most one interval.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file

from shield.errors import ShieldError

Loss = Callable[[int], dict[str, torch.Tensor]]
"""Step -> losses; the one called "loss" is descended."""


class ResumeError(ShieldError):
    """A checkpoint can't be continued with these settings."""

    bad_input = True


@dataclass(frozen=True)
class Schedule:
    """Steps, batch and learning rate (linear warm-up, cosine to `floor` of it); ema 0 keeps no average."""

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    ema: float = 0.0
    seed: int = 0
    weight_decay: float = 0.01
    floor: float = 0.1

    def rate_at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


@dataclass(frozen=True)
class Limits:
    """checkpoint_minutes between checkpoints; max_minutes ends the call (not the training) early."""

    checkpoint_minutes: float = 3.0
    max_minutes: float = math.inf
    resume: bool = False


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(1_000_003 * seed + step)


class Trainer:
    """Trains `model` with `loss(step) -> dict of scalars, key 'loss' is descended`; state lives in `folder`."""

    def __init__(self, name: str, model: torch.nn.Module, schedule: Schedule, folder: Path, config: dict) -> None:
        self.name, self.model, self.schedule, self.folder = name, model, schedule, folder
        self.config = json.loads(json.dumps({"schedule": asdict(schedule), **config}, default=str))
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=schedule.weight_decay, fused=True)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()} if schedule.ema else None
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def done(self) -> bool:
        return self.step >= self.schedule.steps

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}.ckpt.safetensors"

    def load(self, resume: bool) -> None:
        """Takes up the checkpoint in the folder, if there is one and `resume` allows it.

        Raises ResumeError when the checkpoint was made with another configuration, or is there and resume is False.
        """
        if not self._path.exists():
            return
        if not resume:
            raise ResumeError(
                f"{self._path} holds an earlier training; pass --resume to go on or another --work folder."
            )
        with safe_open(self._path, "pt") as file:
            meta = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        found = json.loads(meta["config"])
        if found != self.config:
            keys = sorted(k for k in {*found, *self.config} if found.get(k) != self.config.get(k))
            raise ResumeError(
                f"{self._path} was trained with another configuration (different: {', '.join(keys)}: "
                f"{[found.get(k) for k in keys]} there, {[self.config.get(k) for k in keys]} asked for); "
                "use the same settings or another --work folder. Nothing was changed."
            )
        self._restore(tensors, int(meta["step"]))

    def _restore(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.model.load_state_dict(part("model."))
        if self.average is not None:
            self.average = {k: v.to(self.average[k].device) for k, v in part("average.").items()}
        state: dict[int, dict] = {}
        for key, value in part("adam.").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, held in self.optimizer.state.items():
            for name, value in held.items():  # the fused step pairs memory, so strides have to be the parameter's
                if value.shape == parameter.shape:
                    held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        self.step = step

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        temporary = self._path.with_suffix(".tmp")
        save_file(tensors, temporary, {"step": str(self.step), "config": json.dumps(self.config)})
        temporary.replace(self._path)

    def run(self, loss: Loss, limits: Limits) -> bool:
        """Trains until the schedule's end (True) or the time limit (False). Ctrl-C saves, then is raised again."""
        self.load(limits.resume)
        start = saved = logged = time.monotonic()
        since = self.step
        with self._progress() as (progress, task), (self.folder / f"{self.name}.log.jsonl").open("a") as log:
            try:
                while not self.done:
                    values = self._descend(loss)
                    progress.update(task, completed=self.step, loss=f"{values['loss']:.4f}")
                    if self.step % 20 == 0 or self.done:
                        took, logged = time.monotonic() - logged, time.monotonic()
                        speed = (self.step - since) * self.schedule.batch / max(took, 1e-9)
                        since = self.step
                        entry = {"step": self.step, "seconds": logged - start, "images_per_second": speed}
                        log.write(json.dumps(entry | values) + "\n")
                        log.flush()
                    now = time.monotonic()
                    if now - saved > 60 * limits.checkpoint_minutes:
                        self.save()
                        saved = now
                    if now - start > 60 * limits.max_minutes:
                        break
            finally:
                self.save()
        return self.done

    def _descend(self, loss: Loss) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(self.step)
        values = loss(self.step)
        values["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            keep = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - keep)
                else:
                    self.average[key].copy_(value)
        return {k: float(v.detach()) for k, v in values.items()}

    @contextmanager
    def _progress(self) -> Iterator[tuple[Progress, TaskID]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            yield progress, progress.add_task(self.name, total=self.schedule.steps, completed=self.step, loss="-")
