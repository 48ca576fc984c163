"""The detectors' leaderboard: its arithmetic by hand, its prompts, and one small run on the shipped model."""

import math

import numpy as np
import pytest

from probes.bench.detectors import Prompt, Scores, bench_detectors, figures, leaderboard, prompts_of, table
from probes.bench.text_control import TrigramBayes
from probes.testbed.manifest import load_manifest


def test_the_text_control_by_hand() -> None:
    """'ab' is padded to '  ab ': trigrams '  a', ' ab', 'ab '. Five are known: ' cb', 'cb ' and '  c' make six."""
    model = TrigramBayes.trained(["ab"], ["cb"])
    assert len(model.log_odds) == 6
    assert model.log_odds[" ab"] == pytest.approx(math.log((2 / 9) / (1 / 9)))
    assert model.score("ab") == pytest.approx(3 * math.log(2)) == -model.score("cb")
    assert model.score("xyz") == 0


def test_figures_by_hand() -> None:
    """A hundred dev negatives 0..99: 1 % lie above 98.01. Works 200 and 50 at two seeds: half are found."""
    negatives = [Prompt("nonmembers", str(i), "") for i in range(100)]
    dev = Scores(negatives, np.arange(100.0).reshape(100, 1))
    prompts = [
        Prompt("rung 5", "a", ""),
        Prompt("rung 5", "b", ""),
        Prompt("nonmembers", "c", ""),
        Prompt("scenes", "d", ""),
    ]
    heldout = Scores(prompts, np.array([[200.0, 201], [50, 51], [40, 99], [60, 61]]))
    found = figures(dev, heldout, heldout)
    group = found["groups"]["rung 5"]
    assert found["threshold"] == pytest.approx(98.01) and group["tpr"]["value"] == 0.5 and group["tpr"]["items"] == 2
    assert group["auroc_nonmembers"] == 6 / 8 and group["auroc_scenes"] == 0.5 and group["auroc"] == 10 / 16
    assert found["fpr_nonmembers"]["value"] == 0.5 and found["fpr_scenes"]["value"] == 0


def test_dev_and_heldout_share_no_caption() -> None:
    manifest = load_manifest()
    captions = {split: {p.caption for p in prompts_of(split, manifest)} for split in ("dev", "heldout")}
    works = {w.captions[0] for w in manifest.works()}
    assert not captions["dev"] & captions["heldout"]
    negatives = {p.caption for p in prompts_of("heldout", manifest) if p.group in ("nonmembers", "scenes")}
    assert not negatives & works and len(negatives) >= 200


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_one_detector_on_the_shipped_model(tmp_path) -> None:
    found = bench_detectors(tmp_path, ["noise_gap"], seeds=[600], progress=lambda line: None)
    row = found["detectors"]["noise_gap"]
    assert row["denoiser_rows"] == 2 and (tmp_path / "detectors.json").exists()
    top = load_manifest().rungs[-1]
    never, often = (row["groups"][f"rung {rung}"]["auroc_nonmembers"] for rung in (0, top))
    assert never < 0.8 < often
    assert "| noise_gap | rung" in table(found) and "| `noise_gap` | 1 |" in leaderboard(found)
