"""Denoiser evaluations of locating, counted, against the published procedure's 51 steps x 2 conditions a prompt."""

from __future__ import annotations

from benchmarks.timing import Figure, figure
from probes.audit.audit import as_usual
from probes.audit.plan import FULL
from probes.localizers import FFNSubspace
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.manifest import load_manifest
from probes.types import Localizer

PROMPTS = 10
# Steps, conditions (memorized and base prompt), and the two halves of guidance.
REFERENCE = 51 * 2 * 2


def measure() -> list[Figure]:
    """The published setting (50 steps, the first 10 watched) and the testbed audit's own, on ten works' captions."""
    checkpoint = Checkpoint.of("testbed").loaded()
    subject = checkpoint.subject()
    captions = [work.captions[0] for work in load_manifest().works(split="dev", memorization="VM")[:PROMPTS]]
    localizers: dict[str, Localizer] = {
        "as published": FFNSubspace(),
        "as in an audit": as_usual(FULL, checkpoint).localizer,
    }
    found = []
    for name, localizer in localizers.items():
        cost = localizer.locate(subject, captions).evaluations
        found.append(figure(f"ffn_subspace {name}, {PROMPTS} prompts", [cost], "calls"))
        found.append(figure(f"ffn_subspace {name}: share of the reference", [cost / REFERENCE / PROMPTS], ""))
    return found
