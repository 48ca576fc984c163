"""The tutorials run as they stand, on the shipped model, and end as their texts say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ran(script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_shields_tutorial() -> None:
    benign, memorized, score, character, reported = ran("tutorial_shield.py")
    assert benign.endswith("passed, as the bare pipeline: True")
    assert "mitigated by" in memorized and "structure_gap" in memorized and "threshold" in score
    assert ": mitigated, rewritten to '" in character
    assert reported == "reported alone: passed, flagged: True"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_audits_tutorial(tmp_path: Path) -> None:
    said = ran("tutorial_audit.py", str(tmp_path))
    assert "before, members: 2 of 2 copies" in said
    assert any(line.startswith("members, 10 steps: ") for line in said)
    assert (tmp_path / "pruned" / "report.html").is_file() and (tmp_path / "attacked" / "report.html").is_file()
