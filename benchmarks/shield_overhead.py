"""What the shield costs on the testbed: wall time and denoiser evaluations beside the bare pipeline's, same seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.timing import Figure, figure, seconds
from probes.cost import counted
from probes.generate import generators
from probes.testbed.manifest import load_manifest
from shield.intercept import denoiser_of
from shield.load import load
from shield.wrapper import Shield

BATCH = 4


def measure() -> list[Figure]:
    """Prompts that shouldn't be flagged (non-members) and that should (works of the top rung), both held out."""
    manifest = load_manifest()
    pipe = load("testbed")
    shield = Shield(pipe)
    top = manifest.works(split="heldout", min_rung=manifest.rungs[-1])
    groups = {"non-members": manifest.nonmembers(split="heldout"), "works": top}
    found = []
    for name, items in groups.items():
        prompts = [item.captions[0] for item in items[:BATCH]]
        for kind, make in (("bare", pipe), ("shielded", shield)):
            call = calling(make, prompts, manifest.sampling)
            with counted(denoiser_of(pipe)) as cost:
                call()
            found.append(figure(f"{name}, {kind}: a picture", [s / len(prompts) for s in seconds(call, 3)], "s"))
            evaluations = cost.evaluations / len(prompts)
            found.append(figure(f"{name}, {kind}: denoiser evaluations a picture", [evaluations], "calls"))
    return found


def calling(make: Any, prompts: Sequence[str], sampling: dict[str, Any]) -> Callable[[], Any]:
    return lambda: make(list(prompts), num_inference_steps=sampling["steps"], guidance_scale=sampling["guidance_scale"],
                        generator=generators(range(len(prompts))))
