import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from shield.errors import BadRequestError, TraceError
from shield.hooks.intercept import intercepted
from shield.hooks.preview import (
    PICTURES,
    SIDE,
    Preview,
    _smooth_latents,
    clean_latents,
    decoded,
    preview_of,
    small_pictures,
)
from tests.shield.calls import options
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux


def test_a_linear_preview_is_one_matrix_product():
    """red = .5 z1 + .25, green = -.1 z2, blue = 1 - z1 - z2; by hand for one latent pixel of (1, 2)."""
    weights = torch.tensor([[0.5, 0.0, -1.0], [0.0, -0.1, -1.0], [0.25, 0.0, 1.0]])
    latents = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).repeat(1, 1, 3, 5)
    (picture,) = Preview(weights, 1.0).pictures(latents)
    assert picture.size == (5, 3) and picture.mode == "RGB"
    assert picture.getpixel((4, 2)) == (round(0.75 * 255), 0, 0)  # -.2 and -2 are clipped


def test_the_fit_is_the_least_squares_solution_and_states_what_it_explains(pipe):
    preview = preview_of(pipe)
    latents = _smooth_latents(4)
    colors = torch.cat([adaptive_avg_pool2d(decoded(pipe, z[None]), SIDE) for z in latents])
    given = latents.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    given = np.column_stack([given, np.ones(len(given))]).astype(np.float64)
    wanted = colors.permute(0, 2, 3, 1).reshape(-1, 3).numpy().astype(np.float64)
    solved = np.linalg.pinv(given) @ wanted
    assert preview.weights.numpy() == pytest.approx(solved, abs=1e-4)
    left = ((given @ solved - wanted) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert preview.explained == pytest.approx(1 - left, abs=1e-4)


def test_it_is_fitted_once_for_each_autoencoder_and_draws_no_noise(pipe):
    before = torch.get_rng_state()
    assert preview_of(pipe) is preview_of(tiny_sd()) and preview_of(pipe) is not preview_of(tiny_sd(seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(_smooth_latents(4), _smooth_latents(4)) and len(_smooth_latents(4)) == PICTURES


def test_the_shipped_autoencoder_is_nearly_linear():
    from diffusers import AutoencoderKL

    from shield.model.assets import weights_dir

    pipe = tiny_sd()
    pipe.vae = AutoencoderKL.from_pretrained(str(weights_dir() / "testbed" / "memorized" / "vae"), dtype=torch.float32)
    assert preview_of(pipe).explained > 0.9


def test_a_small_decode_is_the_autoencoders_own_picture(pipe):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = small_pictures(pipe, latents)
    with torch.no_grad():
        pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    own = pipe.image_processor.postprocess(pixels, output_type="pil")
    assert [np.array_equal(a, b) for a, b in zip(pictures, own, strict=True)] == [True, True]
    assert small_pictures(pipe, torch.zeros(1, 4, 96, 40))[0].size == (32 * 8, 32 * 8)


@pytest.mark.parametrize("fails", [False, True])
def test_a_half_precision_autoencoder_that_overflows_is_left_as_it_was(pipe, fails):
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.half()
    before = [p.clone() for p in pipe.vae.parameters()]
    channels = 3 if fails else 4
    try:
        assert decoded(pipe, torch.zeros(1, channels, 8, 8)).dtype == torch.float32
    except RuntimeError:
        assert fails
    assert pipe.vae.dtype == torch.float16
    assert all(torch.equal(a, b) for a, b in zip(before, pipe.vae.parameters(), strict=True))


def test_an_autoencoder_without_numbers_is_one_sentence():
    pipe = tiny_sd(seed=2)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(BadRequestError, match="gives no numbers in torch.float32"):
        preview_of(pipe)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_predicted_clean_latent_is_the_schedulers_own(kind):
    """DDIM states it as pred_original_sample."""
    pipe = tiny_sd(kind)
    seen = []

    def look(forward):
        step = pipe.scheduler.step(forward.noise_cond, int(forward.timestep), forward.latents)
        seen.append((clean_latents(pipe, forward, forward.noise_cond, (64, 64)), step.pred_original_sample))

    with intercepted(pipe, look):
        pipe(["the cat"] * 2, **options(2))
    assert len(seen) == 3
    for ours, theirs in seen:
        assert ours.dtype == torch.float32 and torch.allclose(ours, theirs.float(), atol=1e-3, rtol=1e-3)


def test_epsilon_at_zero_signal_stands_for_no_picture():
    pipe = tiny_sd("epsilon", zero_snr=True)
    with (
        pytest.raises(TraceError, match="zero signal"),
        intercepted(pipe, lambda forward: clean_latents(pipe, forward, forward.noise_cond, (64, 64))),
    ):
        pipe("the cat", **options(1))


def test_packed_latents_are_unpacked_as_the_pipeline_does():
    pipe, seen = tiny_flux(), []

    def look(forward):
        seen.append((forward, clean_latents(pipe, forward, forward.noise_cond, (64, 32))))

    with intercepted(pipe, look):
        pipe("a cat", height=64, width=32, num_inference_steps=2, max_sequence_length=16, output_type="np")
    forward, clean = seen[0]
    assert clean.shape == (1, 4, 8, 4)
    x0 = forward.latents.float() - forward.noise * forward.noise_cond.float()
    assert torch.allclose(clean[0, :, 0, 0], x0[0, 0].view(4, 2, 2)[:, 0, 0], atol=1e-5)
