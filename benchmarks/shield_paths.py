"""What a shielded call costs by what becomes of it: unflagged, flagged early, flagged late, compared with a gallery.

At the testbed's own 25 steps with its shipped thresholds, four images a call and for a late flag also one. Denoiser
rows are exact; wall times are ratios of pairs, bare and shielded in turn, on the same prompts and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.timing import Figure, figure, seconds
from probes.bench.rewordings import flagged_late
from probes.model.generate import generators, quiet
from probes.runs.cost import counted
from probes.testbed.manifest import Manifest, load_manifest
from shield.hooks.intercept import denoiser_of
from shield.model.loading import load
from shield.protected.gallery import Gallery
from shield.protected.pictures import open_image
from shield.wrapper import Shield

PAIRS = 5
SEED = 0


def measure() -> list[Figure]:
    """Ratios to the bare pipeline for each case."""
    manifest, pipe = load_manifest(), load("testbed")
    scenes = [scene.caption for scene in manifest.scenes("dev")][:4]
    work = manifest.works("dev", min_rung=manifest.rungs[-1])[0].captions[0]
    late = flagged_late(pipe)[1]
    cases = {
        "unflagged": (scenes, [SEED] * 4, Shield(pipe)),
        "unflagged, gallery of all works": (scenes, [SEED] * 4, Shield(pipe, gallery=_gallery(manifest))),
        "one of four flagged early": ([work, *scenes[1:]], [SEED] * 4, Shield(pipe)),
        "one of four flagged late": ([late.prompt, *scenes[1:]], [late.seed, *[SEED] * 3], Shield(pipe)),
        "a call of one, flagged late": ([late.prompt], [late.seed], Shield(pipe)),
    }
    found = []
    for name, (prompts, seeds, shield) in cases.items():
        bare, shielded = (_calling(make, prompts, seeds, manifest.sampling) for make in (pipe, shield))
        _check(name, shielded().verdicts)
        found += _paired(name, bare, shielded, pipe)
    return found


def _check(name: str, verdicts: Sequence[Any]) -> None:
    """The case is the one it is called."""
    steps = [reason.step for reason in verdicts[0].reasons if reason.kind == "above_threshold"]
    seen = "unflagged" if not steps else "early" if min(steps) == 0 else "late"
    if seen not in name:
        raise RuntimeError(f"The case {name!r} came out as {seen}: {verdicts[0].reasons}.")


def _gallery(manifest: Manifest) -> Gallery:
    gallery = Gallery()
    gallery.add([(work.id, open_image(work.file)) for work in manifest.works() if work.file is not None])
    return gallery


def _paired(name: str, bare: Callable[[], Any], shielded: Callable[[], Any], pipe: Any) -> list[Figure]:
    rows = []
    for call in (bare, shielded):
        with counted(denoiser_of(pipe)) as cost:
            call()
        rows.append(cost.evaluations)
    ratios = []
    for pair in range(PAIRS):
        order = (bare, shielded) if pair % 2 else (shielded, bare)
        taken = {call: seconds(call, 1, warm=False)[0] for call in order}
        ratios.append(taken[shielded] / taken[bare])
    return [
        figure(f"{name}: denoiser rows, shielded / bare", [rows[1] / rows[0]], "times"),
        figure(f"{name}: wall time, shielded / bare", ratios, "times"),
    ]


def _calling(make: Any, prompts: Sequence[str], seeds: Sequence[int], sampling: dict[str, Any]) -> Callable[[], Any]:
    def call() -> Any:
        with quiet(getattr(make, "pipe", make)):
            return make(
                list(prompts),
                num_inference_steps=sampling["steps"],
                guidance_scale=sampling["guidance_scale"],
                generator=generators(seeds),
            )

    return call
