import pytest

from shield import Shield
from shield.calibration.detectors import NegativeSampling, calibrate, scored
from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError
from shield.model.fingerprint import model_sha256
from shield.runtime.policy import Policy
from shield.runtime.settings import setting_of
from shield.thresholds import found, load_thresholds, save_threshold
from tests.shield.calls import NEGATIVES, options, state
from tests.tiny_families import tiny_flux


def test_scores_do_not_depend_on_the_batch_size(pipe):
    detectors = [NoiseGap(), StructureGap(first_k=2)]
    small, _ = scored(pipe, detectors, NEGATIVES[:4], [5, 6], NegativeSampling(3, 5.0, 3))
    large, _ = scored(pipe, detectors, NEGATIVES[:4], [5, 6], NegativeSampling(3, 5.0, 8))
    for name in ("noise_gap", "structure_gap"):
        assert small[name] == pytest.approx(large[name], rel=1e-3) and len(set(large[name])) == 8


def test_the_setting_of_a_run_is_the_one_foretold(pipe):
    """What calibrate writes is found again for a call with these options, also through a file."""
    _, setting = scored(pipe, [NoiseGap()], NEGATIVES[:2], [0], NegativeSampling(3, 5.0, 2))
    foretold = setting_of(pipe, 3, 5.0)
    assert setting.timesteps == foretold.timesteps[:1] and setting.latent_shape == foretold.latent_shape
    assert setting.mismatch(foretold, 1) is None and foretold.mismatch(setting, 1) is None
    assert setting_of(pipe, 3, 5.0, height=128, width=32).latent_shape == (4, 16, 4)


def test_calibrate_writes_down_what_it_used_and_changes_nothing(pipe, tmp_path):
    pipe("the cat", **options(1))
    before, told = state(pipe), []
    made = calibrate(
        pipe, [NoiseGap()], NEGATIVES, [0], 0.1, "tiny", NegativeSampling(3), {"split": "dev"}, told.append
    )
    assert state(pipe) == before and sum(told) == len(NEGATIVES)
    assert made[0].provenance["prompts"] == 25 and made[0].provenance["seeds"] == [0]
    assert made[0].provenance["split"] == "dev" and made[0].negatives == 25
    assert made[0].setting.model_sha256 == model_sha256(pipe.unet)
    save_threshold(made[0], tmp_path)
    assert found(load_thresholds(tmp_path), NoiseGap(), setting_of(pipe, 50, 7.5)) == made[0]


def test_packed_latents_have_one_shape_wherever_they_are_looked_up():
    """Flux at another size than 64 x 64, where its 16 tokens of 16 channels can't be told apart."""
    pipe, size = tiny_flux(), {"height": 64, "width": 128, "max_sequence_length": 16}
    made = calibrate(
        pipe, [NoiseGap()], NEGATIVES[:3], [0], 0.3, "tiny", NegativeSampling(2, 3.5, 3, tuple(size.items()))
    )
    assert made[0].setting.latent_shape == (32, 16)
    guarded = Shield(pipe, Policy(detectors=(NoiseGap(),), extra_uncond=True, on_flag="report"), thresholds=made)
    verdict = guarded("the cat", num_inference_steps=2, guidance_scale=3.5, **size).verdicts[0]
    assert verdict.scores[0].threshold == made[0].value


def test_too_few_negatives_are_refused(pipe):
    with pytest.raises(BadRequestError, match="at least 99 negatives"):
        calibrate(pipe, [NoiseGap()], NEGATIVES, [0], 0.01, "tiny", NegativeSampling(3))
    with pytest.raises(BadRequestError, match="0 prompts"):
        calibrate(pipe, [NoiseGap()], [], [0], 0.1, "tiny", NegativeSampling(3))
