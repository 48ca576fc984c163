"""Curvature: components by hand, factors against a second computation, and an ordinary prompt's model left alone."""

import json

import pytest
import torch
from typer.testing import CliRunner

from probes.cli.main import app
from probes.localizers import Curvature
from probes.localizers.curvature import Factors, flat
from probes.model.layers import matching_weights
from probes.types import Subject, UnitMask
from shield.hooks.intercept import intercepted
from tests.probes.tiny_testbed import tiny_testbed
from tests.tiny import tiny_sd

PROMPTS = ["the cat", "red", "a thing"]
CURVATURE = Curvature(k=0.1, tau=2, steps=4, batch_size=2)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_components_by_hand():
    """Curvatures 3 * (4, 1) and 1 * (4, 1): 12, 3, 4, 1 of 20. 12 and 4 hold 80 %, so 3 and 1 are flat."""
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    factors = Factors(diagonal(4.0, 1.0), diagonal(3.0, 1.0), 1)
    assert flat(weight, factors, 0.8).tolist() == [[0.0, 2.0], [0.0, 4.0]]
    assert flat(weight, factors, 0.5).tolist() == [[0.0, 2.0], [3.0, 4.0]]
    assert flat(weight, factors, 0.999).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert Curvature(k=0.5, keep=0.8).mask(weight, factors).tolist() == [[False, True], [False, True]]


def test_components_in_a_turned_basis():
    """By a sum over outer products of eigenvectors, one after the other."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    roots = [torch.randn(n, n, generator=draw, dtype=torch.float64) for n in (4, 3)]
    factors = Factors(*(root @ root.T for root in roots), tokens=7)
    outs, left = torch.linalg.eigh(factors.gradients)
    ins, right = torch.linalg.eigh(factors.inputs)
    ranked = sorted(((float(outs[i] * ins[j]), i, j) for i in range(3) for j in range(4)), reverse=True)
    total, held, want = sum(value for value, _, _ in ranked), 0.0, torch.zeros(3, 4, dtype=torch.float64)
    for value, i, j in ranked:
        if held >= 0.7 * total:
            want += (left[:, i] @ weight @ right[:, j]) * torch.outer(left[:, i], right[:, j])
        held += value
    assert torch.allclose(flat(weight, factors, 0.7), want)


def test_factors_are_those_of_the_squared_errors_gradient(subject):
    """One step: inputs and gradients of every layer by retaining them, with the same normal vector."""
    one = Curvature(tau=1, steps=4, batch_size=2)
    found = one.factors(subject, PROMPTS[:2], seed=5)
    paths, seen, want = list(matching_weights(subject.denoiser, one.modules)), {}, {}

    def look(forward):
        handles = [
            subject.denoiser.get_submodule(p).register_forward_hook(
                lambda m, a, o, p=p: seen.__setitem__(p, (a[0], o)) or o.retain_grad()
            )
            for p in paths
        ]
        with torch.enable_grad():
            output = forward.rerun([0, 1], forward.conditioning)
            draws = [torch.Generator().manual_seed(seed << 12) for seed in (5, 6)]
            noise = torch.stack([torch.randn(4, 8, 8, generator=draw) for draw in draws])
            (output * noise).sum().backward()
        for handle in handles:
            handle.remove()
        for path, (inputs, output) in seen.items():
            a, g = (t.detach().flatten(0, 1).double() for t in (inputs, output.grad))
            want[path] = (a.T @ a, g.T @ g, len(a))

    with intercepted(subject.pipe, look):
        subject.pipe(
            PROMPTS[:2],
            generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
            num_inference_steps=1,
            guidance_scale=5.0,
            output_type="latent",
        )
    subject.denoiser.zero_grad(set_to_none=True)
    assert list(found) == paths and len(paths) == 16
    for path, (inputs, gradients, tokens) in want.items():
        assert found[path].tokens == tokens
        assert torch.allclose(found[path].inputs, inputs, rtol=1e-3, atol=1e-5)
        assert torch.allclose(found[path].gradients, gradients, rtol=1e-3, atol=1e-6)


def test_batches_cost_and_gradients(subject):
    located = CURVATURE.locate(subject, PROMPTS, seed=1)
    one = Curvature(k=0.1, tau=2, steps=4, batch_size=1).locate(subject, PROMPTS, seed=1)
    assert located.mask.iou(one.mask) > 0.95
    assert located.evaluations == 3 * 2 * 3  # of three rows, two steps of guidance's two halves and one with gradient
    rows = [mask.sum(dim=1).unique().tolist() for mask in located.mask.masks.values()]
    assert rows == [[int(0.1 * mask.shape[1])] for mask in located.mask.masks.values()]
    assert all(p.grad is None and p.requires_grad for p in subject.denoiser.parameters())
    assert located.mask.iou(CURVATURE.locate(subject, PROMPTS, seed=2).mask) < 1


def test_options_that_make_no_sense(subject):
    for options in ({"k": 0}, {"keep": 1.0}, {"tau": 30}):
        with pytest.raises(ValueError, match="shares|steps"):
            Curvature(**options)
    with pytest.raises(ValueError, match="ordinary prompt"):
        CURVATURE.locate(subject, [])


def test_the_verb_takes_the_testbeds_ordinary_prompts(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tiny_testbed(tmp_path / "weights")))
    done = CliRunner().invoke(
        app,
        [
            "localize",
            "--out",
            str(tmp_path / "run"),
            "--method",
            "curvature",
            "--k",
            "0.1",
            "--tau",
            "1",
            "--steps",
            "2",
            "--limit",
            "3",
            "--device",
            "cpu",
            "--json",
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    mask = UnitMask.load(tmp_path / "run" / "mask.safetensors")
    assert mask.meta["localizer"] == "curvature" and mask.meta["prompts"] == "3" and mask.count() > 0
    assert json.loads(done.stdout)["summary"]["mask"]["prompts"] == 3
