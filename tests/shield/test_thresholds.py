import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shield.detectors import NoiseGap, StructureGap
from shield.errors import BadRequestError, NotCalibratedError, WeightsError
from shield.thresholds import Setting, calibrated, found, load_thresholds, save_threshold

SETTING = Setting("abc", (4, 16, 16), (999.0,), 25, 5.0, "DDIMScheduler", "v_prediction", "float32")


def made(scores, fpr=0.1, **change):
    return calibrated(NoiseGap(), scores, fpr, replace(SETTING, **change), "model", {"seeds": [0]})


def test_the_conformal_quantile_by_hand():
    """19 scores at 10 %: the ceil(.9 * 20) = 18th smallest, so that exactly one of 19 lies above it."""
    threshold = made([float(i) for i in range(1, 20)])
    assert threshold.value == 18.0 and threshold.negatives == 19
    assert threshold.interval[0] <= 18.0 <= threshold.interval[1] == 19.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=200), st.floats(0.05, 0.9))
def test_at_most_the_wanted_share_lies_above(scores, fpr):
    threshold = made(scores, fpr)
    assert sum(s > threshold.value for s in scores) <= fpr * (len(scores) + 1)
    assert threshold.interval[0] <= threshold.value <= threshold.interval[1] or len(scores) < 60


def test_one_percent_needs_99_negatives():
    with pytest.raises(BadRequestError, match="at least 99 negatives; 98"):
        made([1.0] * 98, 0.01)
    assert made([1.0] * 99, 0.01).value == 1.0


@pytest.mark.parametrize(("scores", "fpr"), [([1.0, float("nan")], 0.5), ([1.0], 0.0), ([1.0], 1.0), ([], 0.5)])
def test_bad_calibrations_are_refused(scores, fpr):
    with pytest.raises(BadRequestError):
        made(scores, fpr)


def test_saved_and_loaded_is_equal_and_replaces_the_older_one(tmp_path):
    first, second = made([1.0] * 9), made([2.0] * 9)
    assert save_threshold(first, tmp_path) == save_threshold(second, tmp_path)
    assert load_thresholds(tmp_path) == [second]
    assert load_thresholds(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "setting": {}}', "\x00"])
def test_unreadable_files_are_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(WeightsError, match=r"a\.json isn't a threshold file"):
        load_thresholds(tmp_path)


def test_a_threshold_that_is_no_number_is_refused(tmp_path):
    path = save_threshold(made([1.0] * 9), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "value": float("nan")}))
    with pytest.raises(WeightsError, match="no number"):
        load_thresholds(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_sha256": "other"}, "none was made for this checkpoint"),
        ({"latent_shape": (4, 32, 32)}, "latents of"),
        ({"timesteps": (900.0,)}, "first timesteps"),
        ({"timesteps": ()}, "first timesteps"),
    ],
)
def test_another_setting_is_not_calibrated_and_names_the_command(change, why):
    with pytest.raises(NotCalibratedError, match=why) as error:
        found([made([1.0] * 9)], NoiseGap(), replace(SETTING, **change))
    assert "diffshield calibrate" in str(error.value)


HARMLESS = [{"steps": 50}, {"guidance_scale": 7.5}, {"dtype": "float16"}, {"timesteps": (998.5,)}]


@pytest.mark.parametrize("change", HARMLESS)
def test_what_a_first_step_score_does_not_depend_on_is_not_asked_for(change):
    threshold = made([1.0] * 9)
    assert found([threshold], NoiseGap(), replace(SETTING, **change)) is threshold


def test_a_score_over_several_steps_depends_on_guidance_and_steps():
    detector, times = NoiseGap(first_k=2), (999.0, 959.0)
    threshold = calibrated(detector, [1.0] * 9, 0.1, replace(SETTING, timesteps=times), "model")
    assert found([threshold], detector, replace(SETTING, timesteps=times)) is threshold
    for change in ({"guidance_scale": 7.5, "timesteps": times}, {"timesteps": (999.0, 979.0)}):
        with pytest.raises(NotCalibratedError):
            found([threshold], detector, replace(SETTING, **change))


def test_other_options_and_other_detectors_need_their_own_threshold():
    for detector in (NoiseGap(quantity="v"), StructureGap()):
        with pytest.raises(NotCalibratedError, match=detector.name):
            found([made([1.0] * 9)], detector, SETTING)


def test_the_first_folder_decides_and_two_of_one_folder_are_refused(tmp_path):
    """Of two that hold: the same setting in two folders, and a setting within the tolerance in one."""
    near = replace(SETTING, timesteps=tuple(t + 0.5 for t in SETTING.timesteps))
    for n, folder in enumerate(("mine", "shipped")):
        save_threshold(made([n + 1.0] * 9), tmp_path / folder)
    kept = {folder: load_thresholds(tmp_path / folder) for folder in ("mine", "shipped")}
    assert found([*kept["mine"], *kept["shipped"]], NoiseGap(), SETTING).value == 1.0
    assert found([*kept["shipped"], *kept["mine"]], NoiseGap(), SETTING).value == 2.0
    save_threshold(replace(made([3.0] * 9), setting=near), tmp_path / "mine")
    with pytest.raises(WeightsError, match="both hold"):
        found([*load_thresholds(tmp_path / "mine"), *kept["shipped"]], NoiseGap(), SETTING)


def test_two_thresholds_for_one_setting_are_refused_by_name(tmp_path):
    path = save_threshold(made([1.0] * 9), tmp_path)
    (tmp_path / "a.json").write_text(path.read_text().replace('"value": 1.0', '"value": 1000000000.0'))
    with pytest.raises(WeightsError, match=rf"a\.json and .*{path.name} both hold"):
        load_thresholds(tmp_path)


@pytest.mark.parametrize("change", HARMLESS)
def test_two_thresholds_that_hold_for_one_call_are_refused_by_name(tmp_path, change):
    for setting, value in ((SETTING, 1.0), (replace(SETTING, **change), 1e9)):
        save_threshold(replace(made([1.0] * 9), setting=setting, value=value), tmp_path)
    first, second = (str(path) for path in sorted(tmp_path.glob("*.json")))
    with pytest.raises(WeightsError) as error:
        found(load_thresholds(tmp_path), NoiseGap(), SETTING)
    assert first in str(error.value) and second in str(error.value)


def test_a_threshold_holds_for_what_the_scheduler_predicts():
    other = replace(SETTING, prediction="epsilon")
    assert "predicts epsilon" in SETTING.mismatch(other, 1) and SETTING.mismatch(SETTING, 1) is None
