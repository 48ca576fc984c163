"""What the shield costs: wall time, denoiser evaluations and peak memory beside the bare pipeline's, in pairs.

Each pair draws the same prompts on the same noise, bare and shielded in turn and every other pair the other way round,
so that a machine that slows down slows both. 50 steps on the testbed, whose denoiser is small: what the shield adds
weighs more there than on a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Figure, figure, seconds
from probes.model.generate import generators, quiet
from probes.runs.cost import counted
from probes.testbed.manifest import load_manifest
from shield.hooks.intercept import denoiser_of
from shield.model.loading import load
from shield.wrapper import Shield

BATCH, PAIRS, STEPS = 4, 16, 50


def measure() -> list[Figure]:
    """Prompts that shouldn't be flagged (benign scenes) and that should (works of the top rung), both held out."""
    manifest, pipe = load_manifest(), load("testbed")
    shield = Shield(pipe)
    groups = {
        "not flagged": [scene.caption for scene in manifest.scenes("heldout")][:BATCH],
        "flagged": [w.captions[0] for w in manifest.works("heldout", min_rung=manifest.rungs[-1])][:BATCH],
    }
    found = []
    for name, prompts in groups.items():
        statuses = {v.status for v in calling(shield, prompts, manifest.sampling)().verdicts}
        if (statuses == {"passed"}) != (name == "not flagged"):
            raise RuntimeError(f"These prompts were to be {name}, and the shield says {', '.join(statuses)}.")
        found += paired(name, *(calling(make, prompts, manifest.sampling) for make in (pipe, shield)), pipe)
    return found


def paired(name: str, bare: Callable[[], Any], shielded: Callable[[], Any], pipe: Any) -> list[Figure]:
    """Ratios of the shielded call to the bare one, and the evaluations that it adds to each picture."""
    calls: dict[str, int] = {}
    memory: dict[str, int] = {}
    for kind, call in (("bare", bare), ("shielded", shielded)):  # also loads what is loaded once
        call()
        reset_peak_memory()
        with counted(denoiser_of(pipe)) as cost:
            call()
        calls[kind], memory[kind] = cost.evaluations, peak_memory()
    ratios = []
    for pair in range(PAIRS):
        order = (bare, shielded) if pair % 2 else (shielded, bare)
        taken = {call: seconds(call, 1, warm=False)[0] for call in order}
        ratios.append(taken[shielded] / taken[bare])
    return [
        figure(f"{name}: wall time, shielded / bare", ratios, "times"),
        figure(f"{name}: denoiser rows, shielded / bare", [calls["shielded"] / calls["bare"]], "times"),
        figure(f"{name}: peak memory, shielded / bare", [memory["shielded"] / memory["bare"]], "times"),
    ]


def calling(make: Any, prompts: Sequence[str], sampling: dict[str, Any]) -> Callable[[], Any]:
    def call() -> Any:
        with quiet(getattr(make, "pipe", make)):
            return make(
                list(prompts),
                num_inference_steps=STEPS,
                guidance_scale=sampling["guidance_scale"],
                generator=generators(range(len(prompts))),
            )

    return call


def reset_peak_memory() -> None:
    """From here on the peak counts anew: of the GPU where there is one, of the process otherwise (Linux)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes at most held since reset_peak_memory()."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
