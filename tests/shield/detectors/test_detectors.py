"""The contract of every detector in the table."""

import importlib

import pytest
import torch

from shield.detectors import DETECTORS
from shield.errors import MissingSignalError
from shield.hooks.recording import recorded
from shield.types import Detector, Step, Trace
from tests.shield.calls import PROMPTS, STEPS, noises, options, state
from tests.tiny import tiny_sd

every = pytest.mark.parametrize("name", DETECTORS)
# Those that read nothing but the gap.
GAPS = [name for name, cls in DETECTORS.items() if cls().needs == {"noise_cond", "noise_uncond"}]
of_gaps = pytest.mark.parametrize("name", GAPS)


def traced(pipe, detector, prompts, generators):
    with torch.no_grad(), recorded(pipe, detector.needs, detector.first_k, stop=True) as trace:
        pipe(prompts, generator=generators, **options(num_inference_steps=max(STEPS, detector.first_k)))
    return trace


@every
def test_is_named_after_its_file_and_class(name):
    module = importlib.import_module(f"shield.detectors.{name}")
    cls = DETECTORS[name]
    assert cls.name == name and cls.__module__ == module.__name__
    assert cls.__name__.lower() == name.replace("_", "")
    assert isinstance(cls(), Detector) and module.__doc__ and cls.__doc__


@every
def test_one_finite_float32_score_per_image(name, any_pipe):
    detector = DETECTORS[name]()
    score = detector.score(traced(any_pipe, detector, PROMPTS, noises(4)))
    assert score.shape == (4,) and score.dtype == torch.float32 and score.device.type == "cpu"
    assert torch.isfinite(score).all() and len(set(score.tolist())) == 4


@every
def test_is_independent_of_batch_neighbors(name, any_pipe):
    detector = DETECTORS[name]()
    together = detector.score(traced(any_pipe, detector, PROMPTS, noises(4)))
    alone = [detector.score(traced(any_pipe, detector, [p], noises(1, i))) for i, p in enumerate(PROMPTS)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-3)
    trace = traced(any_pipe, detector, PROMPTS, noises(4))
    assert torch.equal(detector.score(trace.rows([3, 1])), together[[3, 1]])


@every
def test_float16_is_about_float32(name):
    detector = DETECTORS[name]()
    full, half = tiny_sd(), tiny_sd()
    half.to(dtype=torch.float16)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scores = []
    for pipe in (full, half):
        with torch.no_grad(), recorded(pipe, detector.needs, detector.first_k, stop=True) as trace:
            steps = max(STEPS, detector.first_k)
            pipe(PROMPTS, latents=latents.to(pipe.dtype), **options(num_inference_steps=steps))
        scores.append(detector.score(trace))
    assert torch.allclose(scores[0], scores[1], rtol=0.02, atol=2e-4)


@every
def test_a_missing_signal_is_an_error(name, pipe):
    detector = DETECTORS[name]()
    bare = Trace([Step(i, 999.0 - i, 0.1, 0.9, "epsilon") for i in range(detector.first_k)])
    with pytest.raises(MissingSignalError):
        detector.score(bare)
    with pytest.raises(MissingSignalError):
        detector.score(Trace())


@every
def test_scoring_leaves_the_pipeline_alone(name, pipe):
    detector = DETECTORS[name]()
    traced(pipe, detector, PROMPTS, noises(4))
    before = state(pipe)
    traced(pipe, detector, PROMPTS, noises(4))
    assert state(pipe) == before


@of_gaps
def test_an_empty_prompt_scores_lowest(name, pipe):
    """Cond and uncond are the same prediction then; also catches a score that mixes rows up."""
    detector = DETECTORS[name]()
    score = detector.score(traced(pipe, detector, ["the cat", "", "a dog"], noises(3)))
    assert score.argmin() == 1 and score[1] < 1e-4


@of_gaps
def test_does_not_depend_on_how_the_model_writes_its_prediction(name):
    """One model, once read as epsilon and once as v: the same clean latents give the same score."""
    detector = DETECTORS[name]()
    generator = torch.Generator().manual_seed(3)
    x, cond, uncond = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))  # x_t and two clean latents
    a, s = 0.6, 0.8
    scores = []
    for kind in ("epsilon", "v_prediction", "sample"):
        raw = [_written(kind, x, clean, a, s) for clean in (cond, uncond)]
        steps = [Step(k, 900.0 - k, a, s, kind, x, *raw) for k in range(detector.first_k)]
        scores.append(detector.score(Trace(steps)))
    assert torch.allclose(scores[0], scores[1], rtol=1e-4) and torch.allclose(scores[0], scores[2], rtol=1e-4)


def _written(kind, x, clean, a, s):
    eps = (x - a * clean) / s
    return {"epsilon": eps, "v_prediction": a * eps - s * clean, "sample": clean}[kind]
