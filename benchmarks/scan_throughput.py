"""A scan, records written, against the bare batched denoiser, which is the limit, and against reference procedures.

All on the testbed's model, in turns in one run, so that a machine that slows down slows all of them. The limit is the
denoiser's forward on conditional rows of the same batch, with latents and embeddings made beforehand.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.reference_procedures import anisotropy, wen
from benchmarks.timing import Figure, figure
from probes.drawing.draw import Sampling
from probes.inputs.prompts import PromptRecord
from probes.model.generate import generators
from probes.runs.cost import counted
from probes.runs.folder import Run
from probes.scan.engines import InProcess
from probes.scan.scorer import ScoringConfig
from probes.scan.stream import record_stream, turns_of
from probes.testbed.manifest import load_manifest
from probes.types import Subject
from shield.model.conditioning import encoded

BATCH, PROMPTS, REPEATS = 16, 256, 7
REFERENCES: dict[str, tuple[Callable[[Any, str], Any], int]] = {
    "Wen, 50 steps": (lambda pipe, prompt: wen(pipe, prompt, 0), 1),
    "Wen, 1 step": (lambda pipe, prompt: wen(pipe, prompt, 0, read=1), 16),
    "anisotropy": (lambda pipe, prompt: anisotropy(pipe, prompt, 0), 8),
}


def measure() -> list[Figure]:
    """Prompts a second, ratios of the same turn, and denoiser evaluations a prompt."""
    manifest = load_manifest()
    captions = [caption for item in manifest.items for caption in item.captions]
    targets = [
        PromptRecord(f"prompt-{n}", captions[n % len(captions)] + " " * (n // len(captions))) for n in range(PROMPTS)
    ]
    config = ScoringConfig(
        "testbed", ("structure_gap", "noise_gap"), sampling=Sampling(batch_size=BATCH), batch_size=BATCH
    )
    with InProcess(config) as engine, tempfile.TemporaryDirectory() as folder:
        engine.started(targets[0])
        subject = engine.scorer.subject
        limit = bare(subject, [target.prompt for target in targets])
        works: dict[str, tuple[Callable[[], float], int]] = {
            "bare denoiser": (limit, PROMPTS),
            "scan": (lambda: scanned(engine, targets, Path(folder)), PROMPTS),
        }
        for name, (score, count) in REFERENCES.items():
            works[name] = partial(one_by_one, score, subject.pipe, targets[:count]), count
        return compared(works, subject)


def one_by_one(score: Callable[[Any, str], Any], pipe: Any, targets: Sequence[PromptRecord]) -> float:
    """Seconds for all of them."""
    start = time.perf_counter()
    for target in targets:
        score(pipe, target.prompt)
    return time.perf_counter() - start


def compared(works: dict[str, tuple[Callable[[], float], int]], subject: Subject) -> list[Figure]:
    """Each work is called in turn and returns its own seconds."""
    speeds: dict[str, list[float]] = {name: [] for name in works}
    found = []
    for name, (work, count) in works.items():
        with counted(subject.denoiser) as cost:  # also loads what is loaded once
            work()
        found.append(figure(f"{name}: denoiser evaluations a prompt", [cost.evaluations / count], "calls"))
    for _ in range(REPEATS):
        for name, (work, count) in works.items():
            speeds[name].append(count / work())
    for name, values in speeds.items():
        found.append(figure(f"{name}: prompts a second", values, "1/s"))
    for name in works:
        if name != "scan":
            ratios = [one / other for one, other in zip(speeds["scan"], speeds[name], strict=True)]
            found.append(figure(f"scan is faster than: {name}", ratios, "times"))
    return found


def scanned(engine: InProcess, targets: Sequence[PromptRecord], folder: Path) -> float:
    """Seconds of one pass into a fresh run folder, without making the folder, which a scan does once."""
    with tempfile.TemporaryDirectory(dir=folder) as place, Run.create(place, {"model": "testbed"}, kind="scan") as run:
        start = time.perf_counter()
        spent = sum(one.evaluations for one in record_stream(run, engine, turns_of(targets, [500], False), BATCH))
        taken = time.perf_counter() - start
    assert len(targets) <= spent <= len(targets) + 1, spent
    return taken


def bare(subject: Subject, prompts: Sequence[str]) -> Callable[[], float]:
    """Seconds of the denoiser's forward on the same conditional rows, in the same batches, and nothing else."""
    pipe, side = subject.pipe, subject.denoiser.config.sample_size  # type: ignore[union-attr]
    pipe.scheduler.set_timesteps(25)
    timestep = pipe.scheduler.timesteps[0]
    (seed,) = generators([500])
    noise = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=seed).to(subject.device, subject.dtype)
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    with torch.no_grad():
        rows = [(noise.repeat(len(batch), 1, 1, 1), encoded(pipe, list(batch)).embeds) for batch in batches]

    def work() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for latents, embeds in rows:
                subject.denoiser(latents, timestep, encoder_hidden_states=embeds)
        if subject.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return work
