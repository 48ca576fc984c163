"""The technique and the metric for eval-unlearn: by themselves, and in its own runner where it is installed."""

import importlib
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probes.api.unlearning import MemorizationMetric, ShieldTechnique
from probes.localizers import RandomMask
from probes.types import Subject
from shield.errors import BadRequestError
from tests.tiny import tiny_sd

ROOT = Path(__file__).parents[2]


def picture(number):
    return Image.effect_mandelbrot((64, 64), (-2 + number / 5, -1, 1, 1), 20 + number).convert("RGB")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two works and four non-members, each with a picture; thresholds go to a folder of their own."""
    (tmp_path / "weights" / "thresholds").mkdir(parents=True)
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tmp_path / "weights"))
    for group, numbers in (("works", range(2)), ("nonmembers", range(2, 6))):
        rows = ["prompt,picture"]
        for number in numbers:
            picture(number).save(tmp_path / f"{number}.png")
            rows.append(f"the cat {number},{number}.png")
        (tmp_path / f"{group}.csv").write_text("\n".join(rows), encoding="utf-8")
    tiny_sd().save_pretrained(tmp_path / "model")
    RandomMask(density=0.3).locate(Subject(tiny_sd(), "tiny")).mask.save(tmp_path / "mask.safetensors")
    return tmp_path


def technique(files, **more):
    return ShieldTechnique(str(files / "model"), device="cpu", num_inference_steps=2, guidance_scale=5.0, **more)


def test_the_entry_points_name_them():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    found = {}
    for group in ("eval_unlearn.techniques", "eval_unlearn.metrics"):
        for name, target in groups[group].items():
            module, _, attribute = target.partition(":")
            found[name] = getattr(importlib.import_module(module), attribute)
    assert found == {"diffusion_shield": ShieldTechnique, "memorization": MemorizationMetric}


def test_the_technique_prunes_and_puts_back(files):
    """A picture depends on its prompt and its place alone; with a mask it is another one."""
    whole, less = technique(files), technique(files, mask=str(files / "mask.safetensors"))
    pictures = [np.asarray(one) for one in whole.generate(["the cat", "a dog"], seed=3)]
    alone = np.asarray(whole.generate(["a dog"], seed=4)[0])
    assert np.abs(pictures[1].astype(int) - alone).max() <= 1
    assert not np.array_equal(pictures[0], np.asarray(less.generate(["the cat"], seed=3)[0]))
    noise, sampling = [torch.Generator().manual_seed(3)], {"num_inference_steps": 2, "guidance_scale": 5.0}
    bare = np.asarray(less.pipe(["the cat"], generator=noise, **sampling).images[0])
    assert np.abs(pictures[0].astype(int) - bare).max() <= 1  # the mask was on for the call alone


def test_the_metric_counts_copies(files):
    """Both works copied, of four non-members one; by hand."""
    pytest.importorskip("eval_unlearn")
    metric = MemorizationMetric(str(files / "works.csv"), str(files / "nonmembers.csv"), batch_size=4)
    batches = metric.load_dataset()
    assert [len(batch.prompts) for batch in batches] == [4, 2]
    drawn = [picture(0), picture(1), picture(2), *[Image.new("RGB", (64, 64), "red")] * 3]
    for batch, start in zip(batches, (0, 4), strict=True):
        metric.update(drawn[start : start + 4], batch.prompts, batch.metadata)
    result = metric.compute()
    assert (result.name, result.value) == ("Memorization", 1.0)
    assert result.details["nonmembers"]["rate"] == 0.25 and result.details["gap"]["gap"] == 0.75


def test_too_few_non_members(files):
    with pytest.raises(BadRequestError, match="at least three"):
        MemorizationMetric(str(files / "works.csv"), str(files / "works.csv"))


def test_its_runner_runs_them(files):
    pytest.importorskip("eval_unlearn")
    from eval_unlearn.registry import register_metric, register_technique
    from eval_unlearn.runners import SingleBenchmarkRunner

    register_technique("diffusion_shield")(ShieldTechnique)  # as its entry points are, in an installed distribution
    register_metric("memorization")(MemorizationMetric)
    config = {"model": str(files / "model"), "mask": str(files / "mask.safetensors"), "device": "cpu"}
    runner = SingleBenchmarkRunner(
        "diffusion_shield",
        "memorization",
        technique_config={**config, "num_inference_steps": 2},
        metric_config={"works": str(files / "works.csv"), "nonmembers": str(files / "nonmembers.csv")},
        output_dir=str(files / "results"),
        seed=1,
    )
    report = runner.run()
    found = str(report)
    assert "Memorization" in found and len(list((files / "results").rglob("*.png"))) == 6
