"""A run scored once more by SSCD: real pictures on disk, and a small TorchScript network in place of the real one."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from probes.runs.folder import Run

ROOT = Path(__file__).resolve().parents[2]


class Grid(torch.nn.Module):
    """What each color has in each of 64 places beyond its mean, in hundredths: one color alone makes zeros."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.adaptive_avg_pool2d(pictures, 8).flatten(2)
        return (100 * (cells - cells.mean(dim=2, keepdim=True))).round().flatten(1)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.torchscript.pt"
    torch.jit.save(torch.jit.script(Grid()), str(path))
    return path


def noise(seed: int) -> Image.Image:
    values = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed)).mul(255).byte()
    return Image.fromarray(values.permute(1, 2, 0).numpy()).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two works; of each one picture that is it and one that isn't, and one of a single color, which has no score."""
    folder = tmp_path / "run"
    with Run.start(folder, {}, resume=False, kind="attack") as made:
        (folder / "pictures").mkdir()
        rows = [("work", n, None, n) for n in (0, 1)]
        rows += [("attacked", n, steps, n if steps else n + 7) for n in (0, 1) for steps in (0, 50)]
        rows += [("before", 0, None, None), ("scan", 5, None, 3)]  # an item without a work isn't scored
        for number, (stage, item, steps, seed) in enumerate(rows):
            name = f"pictures/{number}.png"
            (Image.new("RGB", (64, 64), "red") if seed is None else noise(seed)).save(folder / name)
            made.append(
                {
                    "id": str(number),
                    "stage": stage,
                    "item": f"w{item}",
                    "seed": seed,
                    "attack_steps": steps,
                    "picture": name,
                }
            )
        made.finish("complete")
    return folder


def scored(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "sscd.py"), *map(str, words)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_copies_are_told_from_others(run: Path, network: Path, tmp_path: Path) -> None:
    done = scored(run, network, "--csv", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {"attacked, 0 steps", "attacked, 50 steps", "before"}
    assert "median 1.000, above 0.7: 100.0%" in lines["attacked, 50 steps"]
    assert "above 0.7: 0.0%" in lines["attacked, 0 steps"] and "pictures 2, not scored 0" in lines["attacked, 0 steps"]
    assert lines["before"].endswith("pictures 0, not scored 1")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) == 5 and [float(row["sscd"]) > 0.99 for row in rows[:4]] == [False, True, False, True]


def test_a_run_without_works_says_so(tmp_path: Path, network: Path) -> None:
    with Run.start(tmp_path / "empty", {}, resume=False, kind="scan") as made:
        made.finish("complete")
    done = scored(tmp_path / "empty", network)
    assert done.returncode == 1 and "holds no picture of a work" in done.stderr and "Traceback" not in done.stderr


def test_weights_that_are_none_are_named(run: Path, tmp_path: Path) -> None:
    done = scored(run, tmp_path / "missing.pt")
    assert done.returncode == 1 and "no SSCD file" in done.stderr and "Traceback" not in done.stderr
