"""What the detectors and mitigations do to planted memories: a few works of the shipped testbed's top rung.

Smoke tests of the effect, not figures: those are `diffshield bench`'s.
"""

from functools import cache

import pytest
import torch
from PIL import Image

import shield
from probes.metrics.statistics import auroc
from probes.testbed.manifest import load_manifest
from shield import Shield
from shield.calibration.detectors import NegativeSampling, scored
from shield.detectors import DETECTORS, NoiseGap
from shield.mitigations import AttentionDamp
from shield.protected.gallery import Gallery
from shield.runtime.policy import Policy
from shield.runtime.settings import setting_of
from shield.thresholds import calibrated

WORKS = 4


@cache
def testbed():
    """The pipeline, its sampling, works of the top rung and captions of matched non-members, all of the dev split."""
    manifest = load_manifest()
    pipe = shield.load("testbed", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    works = manifest.works("dev", min_rung=max(manifest.rungs), memorization="VM")[:WORKS]
    others = [item.captions[0] for item in manifest.nonmembers("dev")[:WORKS]]
    sampling = NegativeSampling(manifest.sampling["steps"], manifest.sampling["guidance_scale"], 2 * WORKS)
    return pipe, sampling, works, others


@pytest.mark.parametrize("name", ["sharpness", "ssim_gap", "stability", "bright_ending"])
def test_a_detector_ranks_works_above_matched_nonmembers(name):
    pipe, sampling, works, others = testbed()
    found, _ = scored(pipe, [DETECTORS[name]()], [w.captions[0] for w in works] + others, [600], sampling)
    assert auroc(found[name][:WORKS], found[name][WORKS:]) >= 0.9


@cache
def bare():
    """Correlations of the pictures with their works, and the gallery of these."""
    pipe, sampling, works, _ = testbed()
    gallery = Gallery(correlation=1.0)
    gallery.add([(w.id, Image.open(w.file)) for w in works])
    return [score for score, _ in gallery.similar(pipe(**call()).images)], gallery


def call():
    _, sampling, works, _ = testbed()
    noises = [torch.Generator().manual_seed(5 + n) for n in range(WORKS)]
    return {
        "prompt": [w.captions[0] for w in works],
        "generator": noises,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
    }


MITIGATIONS = [AttentionDamp(), AttentionDamp("null")]


@pytest.mark.parametrize("mitigation", MITIGATIONS, ids=[f"{m.name}-{n}" for n, m in enumerate(MITIGATIONS)])
def test_a_mitigation_leads_away_from_the_works(mitigation):
    pipe, sampling, _, _ = testbed()
    before, gallery = bare()
    made = calibrated(NoiseGap(), [0.79] * 100, 0.01, setting_of(pipe, sampling.steps, sampling.guidance_scale), "x")
    policy = Policy((NoiseGap(),), (mitigation,), on_copy="report", retries=0)
    result = Shield(pipe, policy, gallery=gallery, thresholds=[made])(**call())
    after = [score for score, _ in gallery.similar(result.images)]
    led = [n for n, v in enumerate(result.verdicts) if v.status == "mitigated"]
    assert len(led) >= WORKS - 1 and all(v.status in ("mitigated", "blocked") for v in result.verdicts)
    assert sum(after[n] for n in led) < 0.9 * sum(before[n] for n in led)
