"""The shield, step by step, on the shipped model: python examples/tutorial_shield.py"""

import torch

import shield
from probes.testbed.manifest import load_manifest
from probes.verbs.calibrate_protected import testbed_concepts, works_gallery
from shield import Policy, Shield

SAMPLING = {"num_inference_steps": 25, "guidance_scale": 3.0}


def noise(seed):
    """One generator for one picture: the same seed gives the same noise."""
    return [torch.Generator("cpu").manual_seed(seed)]


# Any diffusers pipeline can be wrapped. This one memorized some works, and its manifest says which.
pipe = shield.load("testbed", device="cpu")
safe = Shield(pipe)
memorized = max(load_manifest().works(split="heldout", memorization="VM"), key=lambda work: work.exposures)
benign = "a cat and a star on a blue background"

# What isn't flagged is equal to the bit to what the bare pipeline draws.
result = safe(benign, generator=noise(1), **SAMPLING)
bare = pipe(benign, generator=noise(1), **SAMPLING)
print(
    f"{benign}: {result.verdicts[0].status}, "
    f"as the bare pipeline: {result.images[0].tobytes() == bare.images[0].tobytes()}"
)

# A memorized prompt is noticed at the first step, before a picture exists, and drawn in another way.
verdict = safe(memorized.captions[0], generator=noise(1), **SAMPLING).verdicts[0]
score = verdict.scores[0]
print(f"{memorized.captions[0]}: {verdict.status} by {verdict.mitigation}, because {verdict.reasons[0]}")
print(f"  {score.detector} {score.value:.3f}, threshold {score.threshold:.3f}, extra calls {verdict.extra_calls}")

# What a rights holder gives: pictures that no finished picture may copy, and names that no prompt may use.
guarded = Shield(pipe, gallery=works_gallery(), concepts=testbed_concepts())
character = testbed_concepts().concepts[0]
verdict = guarded(f"{character.name} on a red background", generator=noise(2), **SAMPLING).verdicts[0]
print(f"{character.name}: {verdict.status}, rewritten to {verdict.rewritten_prompt!r}")

# A policy says what happens. This one only reports; "strict" blocks what it can't judge, for instance without guidance.
watching = Shield(pipe, policy=Policy(on_flag="report", on_copy="report"))
verdict = watching(memorized.captions[0], generator=noise(1), **SAMPLING).verdicts[0]
print(f"reported alone: {verdict.status}, flagged: {verdict.scores[0].flagged}")
