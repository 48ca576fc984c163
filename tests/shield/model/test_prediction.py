import math

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from shield.errors import TraceError
from shield.model.prediction import converted, noise_levels, prediction_type

A, S = 0.6, 0.8  # a 3-4-5 triangle: signal^2 + noise^2 = 1
X0, EPS = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 3.0]])
X = A * X0 + S * EPS
RAW = {"epsilon": EPS, "v_prediction": A * EPS - S * X0, "sample": X0}


@pytest.mark.parametrize("kind", RAW)
@pytest.mark.parametrize("quantity", ["x0", "epsilon", "v"])
def test_each_prediction_gives_each_quantity(kind, quantity):
    want = {"x0": X0, "epsilon": EPS, "v": A * EPS - S * X0}[quantity]
    assert torch.allclose(converted(RAW[kind], kind, quantity, A, S, X), want, atol=1e-6)


@pytest.mark.parametrize("quantity", ["x0", "epsilon"])
def test_flow(quantity):
    x = 0.75 * X0 + 0.25 * EPS
    want = {"x0": X0, "epsilon": EPS}[quantity]
    assert torch.allclose(converted(EPS - X0, "flow", quantity, 0.75, 0.25, x), want, atol=1e-6)


@pytest.mark.parametrize("kind", RAW)
def test_a_difference_converts_without_latents(kind):
    other_x0 = torch.tensor([[1.0, 1.0]])
    other_eps = (X - A * other_x0) / S
    other = {"epsilon": other_eps, "v_prediction": A * other_eps - S * other_x0, "sample": other_x0}[kind]
    assert torch.allclose(converted(RAW[kind] - other, kind, "x0", A, S), X0 - other_x0, atol=1e-6)


def test_hand_arithmetic_of_a_gap():
    gap = torch.tensor([[3.0, 4.0]])
    assert converted(gap, "v_prediction", "x0", 0.0, 1.0).tolist() == [[-3.0, -4.0]]
    assert converted(gap, "v_prediction", "epsilon", 0.0, 1.0).abs().max() == 0.0
    assert torch.allclose(converted(gap, "epsilon", "x0", 0.5, 1.0), torch.tensor([[-6.0, -8.0]]))


def test_clean_latent_from_epsilon_at_zero_signal_is_refused():
    with pytest.raises(TraceError, match="zero signal"):
        converted(EPS, "epsilon", "x0", 0.0, 1.0)


def test_noise_levels_of_ddim_are_alpha_bar():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert noise_levels(scheduler, 999) == (0.0, 1.0)
    signal, noise = noise_levels(scheduler, 500)
    assert signal == pytest.approx(math.sqrt(scheduler.alphas_cumprod[500]))
    assert signal**2 + noise**2 == pytest.approx(1.0)


def test_noise_levels_of_euler_fit_its_scaled_input():
    scheduler = EulerDiscreteScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    for timestep, sigma in zip(scheduler.timesteps[1:-1], scheduler.sigmas[1:-2], strict=True):
        signal, noise = noise_levels(scheduler, float(timestep))
        assert noise / signal == pytest.approx(float(sigma), rel=2e-3)


def test_noise_levels_of_rectified_flow():
    scheduler = FlowMatchEulerDiscreteScheduler()
    assert prediction_type(scheduler) == "flow"
    assert noise_levels(scheduler, 250.0) == (0.75, 0.25)


def test_unknown_prediction_is_refused():
    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(TraceError, match="score"):
        prediction_type(scheduler)
