"""The script for Stable Diffusion checkpoints, end to end on a tiny one, and again without doing anything twice."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_sd

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "sd14_audit.sh"
SMALL = {
    "STEPS": "2",
    "GUIDANCE": "5",
    "SEEDS": "1",
    "FPR": "0.2",
    "K": "0.2",
    "TAU": "1",
    "AT": "0,1",
    "WORKS": "1",
    "EPOCHS": "1",
    "BATCH": "1",
    "DEVICE": "cpu",
    "HF_HUB_OFFLINE": "1",
    "DIFFSHIELD": f"{sys.prefix}/bin/diffshield",
}


def ran(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env={**os.environ, **SMALL, **settings}, capture_output=True, text=True
    )


def prompts(folder: Path) -> Path:
    """Five-line versions of what examples/public_lists.py writes."""
    (folder / "pictures").mkdir(parents=True)
    for name in ("memorized", "locate", "works", "others", "nonmembers"):
        rows = [["prompt", "picture", "type"]]
        for n in range(3):
            picture = folder / "pictures" / f"{name}-{n}.png"
            view = (-2 + n / 4, -1, 1, 1 + len(name) / 20)
            Image.effect_mandelbrot((64, 64), view, 20 + 3 * n).convert("RGB").rotate(37 * n).save(picture)
            rows.append([f"the cat {name} {n}", f"pictures/{picture.name}", "VM"])
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    (folder / "calibration.txt").write_text("".join(f"a dog {n}\n" for n in range(5)), encoding="utf-8")
    (folder / "benign.txt").write_text("".join(f"a red thing {n}\n" for n in range(4)), encoding="utf-8")
    return folder


def test_it_is_a_valid_script() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    assert "set -euo pipefail" in SCRIPT.read_text(encoding="utf-8") and os.access(SCRIPT, os.X_OK)


def test_wrong_usage_and_missing_prompts_are_one_sentence(tmp_path: Path) -> None:
    usage = ran("model")
    assert usage.returncode == 2 and usage.stderr == f"usage: {SCRIPT} MODEL PROMPTS OUT\n"
    lacking = ran("model", str(tmp_path), str(tmp_path / "out"))
    assert lacking.returncode == 2 and lacking.stderr.startswith(f"{tmp_path} lacks memorized.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_audit_and_the_same_command_again(tmp_path: Path) -> None:
    tiny_sd("epsilon").save_pretrained(tmp_path / "model")
    where = [str(tmp_path / "model"), str(prompts(tmp_path / "prompts")), str(tmp_path / "out")]
    done = ran(*where, AUDIT="none")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    runs = {
        name: json.loads((out / name / "run.json").read_text(encoding="utf-8"))
        for name in ("scan-memorized", "scan-others", "mask", "pruned", "attacked", "hardened")
    }
    assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(runs, "complete")
    assert all((out / name / "report.html").is_file() for name in runs)
    assert (out / "hardened-model" / "model_index.json").is_file()
    assert len(list((out / "home" / "thresholds").glob("*.json"))) == 2
    flagged = [json.loads(line)["flagged"] for line in (out / "scan-others" / "records.jsonl").open(encoding="utf-8")]
    assert set(flagged) <= {True, False} and len(flagged) == 3, "the thresholds it made are those it used"
    curve = json.loads((out / "attacked" / "summary.json").read_text(encoding="utf-8"))["curve"]
    assert {(row["stage"], row["attack_steps"]) for row in curve} == {
        (stage, steps) for stage in ("attacked", "nonmember_attacked") for steps in (0, 1)
    }
    records = {path: path.read_bytes() for path in out.rglob("records.jsonl")}
    again = ran(*where, AUDIT="quick")
    assert again.returncode == 0, again.stderr
    assert "== calibrate" not in again.stderr
    assert all(path.read_bytes() == before for path, before in records.items())
    assert (out / "audit" / "report.html").is_file()
