"""What the verbs do on SDXL, SD3 and Flux: each works, or is refused before anything is written."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import shield
from probes.cli.main import app
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

MAKERS = {"sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
SAMPLING = ("--steps", "2", "--guidance", "5")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        pipe: Any = make()
        if name == "flux":
            pipe.transformer.register_to_config(sample_size=8)
        pipe.save_pretrained(folder / name)
    return {name: folder / name for name in MAKERS}


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three works with pictures; thresholds go to a folder of their own."""
    (tmp_path / "weights" / "thresholds").mkdir(parents=True)
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tmp_path / "weights"))
    rows = [["prompt", "picture"]]
    for n in range(3):
        Image.effect_mandelbrot((64, 64), (-2 + n / 4, -1, 1, 1), 20 + n).convert("RGB").save(tmp_path / f"{n}.png")
        rows.append([f"the cat {n}", f"{n}.png"])
    with open(tmp_path / "works.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return tmp_path / "works.csv"


def ran(model: Path, *arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in (*arguments, "--model", model, "--device", "cpu")])


def test_a_checkpoint_that_was_saved_without_a_part_is_loaded(models: dict[str, Path]) -> None:
    assert shield.load(models["sd3"], "cpu").text_encoder_3 is None


@pytest.mark.parametrize("name", MAKERS)
def test_calibrated_scanned_localized(name: str, models: dict[str, Path], prompts: Path, tmp_path: Path) -> None:
    made = ran(models[name], "calibrate", "--prompts", prompts, "--fpr", "0.5", "--seeds", "2", *SAMPLING)
    assert made.exit_code == 0, made.output
    guidance = "3.5" if name == "flux" else "5"
    made = ran(
        models[name],
        "calibrate",
        "--prompts",
        prompts,
        "--fpr",
        "0.5",
        "--seeds",
        "2",
        "--steps",
        "2",
        "--guidance",
        guidance,
    )
    assert made.exit_code == 0, made.output
    done = ran(models[name], "scan", prompts, "--out", tmp_path / "scan", "--steps", "2", "--guidance", guidance)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "scan" / "records.jsonl").open(encoding="utf-8")]
    assert len(records) == 3 and all(record["flagged"] in (True, False) for record in records)
    assert all(isinstance(score, float) for record in records for score in record["scores"].values())
    found = ran(models[name], "localize", prompts, "--out", tmp_path / "mask", "--k", "0.2", "--tau", "1", *SAMPLING)
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "mask" / "summary.json").read_text(encoding="utf-8"))["mask"]["weights"] > 0


@pytest.mark.parametrize("verb", ["attack", "harden", "locality"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_search_is_refused_before_a_run_is_made(
    name: str, verb: str, models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    refused = ran(models[name], verb, "--out", tmp_path / "run", "--prompts", prompts, "--nonmembers", prompts)
    assert refused.exit_code == 1 and "one text encoder and a UNet" in refused.output, refused.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_audit_of_sdxl_leaves_the_search_out_and_says_so(
    models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    made = ran(models["sdxl"], "calibrate", "--prompts", prompts, "--fpr", "0.9", "--seeds", "4", *SAMPLING)
    assert made.exit_code == 0, made.output
    done = ran(models["sdxl"], "audit", "--out", tmp_path / "audit", "--prompts", prompts, "--quick")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "audit" / "summary.json").read_text(encoding="utf-8"))
    assert any("one text encoder and a UNet" in limit for limit in summary["limits"])
    stages = {row["stage"] for row in summary["rows"]}
    assert "pruned" in stages and "attacked" not in stages
