"""SD 1.5's and SDXL's denoisers at full size, random weights: loaded, shielded, scanned and localized on a CPU."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"sd15": 859_520_964, "sdxl": 2_567_463_684}
FFN_LAYERS = {"sd15": 16, "sdxl": 70}


def told(*arguments: str) -> dict[str, Any]:
    """What `python -m tests.real_size` says; a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, "-m", "tests.real_size", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_checkpoint_of_real_size_is_loaded_shielded_scanned_and_localized(name: str, tmp_path: Path) -> None:
    assert told("make", name, str(tmp_path))["parameters"] == WEIGHTS[name]
    seen = told("use", str(tmp_path))
    assert seen["verdict"] == "passed" and math.isfinite(seen["score"]) and seen["picture"] == [256, 256]
    assert seen["layers"] == FFN_LAYERS[name] and 0 < seen["density"] <= 0.01
    assert seen["evaluations"] == 4, "a prompt and the base, with both halves of guidance"
    assert seen["hooks left"] == 0
    assert [set(scores) for scores in seen["scanned"]] == [{"structure_gap", "noise_gap"}] * 2
    assert all(math.isfinite(score) for scores in seen["scanned"] for score in scores.values())
    whole = 2 * WEIGHTS[name] / 2**30
    assert whole < seen["peak_gib"] < whole + 2.5, "the weights once, and what works on them"
