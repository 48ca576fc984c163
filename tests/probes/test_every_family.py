"""Scores, a mask and pruned pictures on tiny pipelines of the families whose own size can be tiny; attacks are tried in
test_families.py and attacks/test_text_free.py.
"""

import numpy as np
import pytest

from probes.drawing.draw import Job, Sampling, drawn_by_pipeline
from probes.errors import UnsupportedError
from probes.inputs.prompts import PromptRecord
from probes.localizers import FFNSubspace
from probes.pruners import pruned
from probes.types import Subject
from shield.detectors import StructureGap
from tests.probes.attacks.test_text_free import MAKERS

LOCATED = ("sd", "sdxl", "sd3", "flux", "chroma", "kolors", "lcm")
SCORED = ("sd", "sdxl", "sd3", "flux", "chroma", "kolors", "flux2", "flux2dev", "qwenimage")
STEPS = 2
PROMPTS = ("the cat", "zzz by anna")


def made(name):
    pipe = MAKERS[name]()
    pipe.default_sample_size = 8
    return Subject(pipe, name), Sampling(STEPS, 5.0)


def jobs():
    return [Job(PromptRecord(f"p{n}", prompt, "prompt"), n) for n, prompt in enumerate(PROMPTS)]


def scores(name):
    subject, sampling = made(name)
    scored = drawn_by_pipeline(subject, sampling, [StructureGap()], pictures=False)(jobs())
    return [one.scores["structure_gap"] for one in scored]


@pytest.mark.parametrize("name", SCORED)
def test_a_prompt_gets_a_score(name):
    """Also where an unconditional prediction has to be asked for."""
    assert min(scores(name)) > 0


def test_a_latent_consistency_model_has_none():
    assert scores("lcm") == [None, None]


@pytest.mark.parametrize("name", LOCATED)
def test_a_mask_is_found_and_pruning_it_makes_other_pictures(name):
    subject, sampling = made(name)
    draw = drawn_by_pipeline(subject, sampling)
    before = [np.asarray(one.picture) for one in draw(jobs())]
    found = FFNSubspace(k=0.3, tau=1, steps=STEPS, guidance_scale=5.0).locate(subject, PROMPTS, seed=1)
    assert 0 < found.mask.count() < found.mask.size()
    with pruned(subject, found.mask):
        after = [np.asarray(one.picture) for one in draw(jobs())]
    assert not any(np.array_equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["flux2", "flux2dev", "qwenimage"])
def test_feed_forward_layers_of_another_name_are_refused(name):
    subject, _ = made(name)
    with pytest.raises(UnsupportedError, match="no linear layer whose path matches"):
        FFNSubspace(tau=1, steps=STEPS).locate(subject, PROMPTS)
