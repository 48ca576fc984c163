"""What the shield costs: wall time, denoiser evaluations and peak memory beside the bare pipeline's, in pairs.

Each pair draws the same prompts on the same noise, bare and shielded in turn and every other pair the other way round,
so that a machine that slows down slows both. 50 steps on the testbed, whose denoiser is small: what the shield adds
weighs more there than on a real one. So an unflagged call is also measured on a UNet of SD 1.5's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_size import SD15
from benchmarks.timing import Figure, figure, seconds
from probes.model.generate import generators, quiet
from probes.runs.cost import counted
from probes.testbed.manifest import load_manifest
from shield.calibration.setting_call import foretold_setting
from shield.hooks.intercept import denoiser_of
from shield.model.loading import load
from shield.runtime.policy import Policy
from shield.thresholds import Threshold, options_of
from shield.wrapper import Shield

BATCH, PAIRS, STEPS = 4, 16, 50
REAL_PAIRS, REAL_STEPS = 3, 4


def measure() -> list[Figure]:
    """Prompts that shouldn't be flagged (benign scenes) and that should (works of the top rung), both held out."""
    manifest, pipe = load_manifest(), load("testbed")
    sampling = {**manifest.sampling, "steps": STEPS}
    shield = Shield(pipe)
    groups = {
        "not flagged": [scene.caption for scene in manifest.scenes("heldout")][:BATCH],
        "flagged": [w.captions[0] for w in manifest.works("heldout", min_rung=manifest.rungs[-1])][:BATCH],
    }
    found = []
    for name, prompts in groups.items():
        statuses = {v.status for v in calling(shield, prompts, sampling)().verdicts}
        if (statuses == {"passed"}) != (name == "not flagged"):
            raise RuntimeError(f"These prompts were to be {name}, and the shield says {', '.join(statuses)}.")
        found += paired(name, *(calling(make, prompts, sampling) for make in (pipe, shield)), pipe)
    return found + at_real_size(pipe, groups["not flagged"][:1])


def at_real_size(testbed: Any, prompts: Sequence[str]) -> list[Figure]:
    """One unflagged picture of 256 px by SD 1.5's UNet with random weights, which reads the testbed's text encoder. Its
    threshold is given, and so high that nothing is flagged: what is measured is the cost of looking.
    """
    from diffusers import UNet2DConditionModel

    width, channels = testbed.unet.config.cross_attention_dim, testbed.unet.config.in_channels
    unet = UNet2DConditionModel(
        in_channels=channels, out_channels=channels, **{**SD15, "cross_attention_dim": width, "sample_size": 32}
    ).eval()
    pipe = type(testbed)(**{**testbed.components, "unet": unet})
    sampling = {"steps": REAL_STEPS, "guidance_scale": 7.5}
    setting = foretold_setting(pipe, {"num_inference_steps": REAL_STEPS, "guidance_scale": 7.5})
    detectors = Policy().detectors
    never = [Threshold(d.name, options_of(d), "random", setting, 1e9, 0.01, 100, (1e9, 1e9)) for d in detectors]
    calls = [calling(make, prompts, sampling) for make in (pipe, Shield(pipe, thresholds=never))]
    return paired("SD 1.5's size, 256 px, 4 steps, not flagged", *calls, pipe, REAL_PAIRS)


def paired(
    name: str, bare: Callable[[], Any], shielded: Callable[[], Any], pipe: Any, pairs: int = PAIRS
) -> list[Figure]:
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
    for pair in range(pairs):
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
                num_inference_steps=sampling["steps"],
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
