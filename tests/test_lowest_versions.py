"""The lowest versions that pyproject.toml allows: they can be installed together, and README's first snippet runs."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
OFFLINE = re.compile(r"failed to fetch|connection|dns|timed out|no solution found.*unavailable", re.IGNORECASE)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("uv") is None, reason="needs uv: pip install uv")]


def uv(*arguments: str | Path) -> str:
    """What uv says; the test is skipped where it reaches no registry."""
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0 and OFFLINE.search(done.stderr):
        pytest.skip(f"uv reaches no registry: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lowest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lowest version of everything that the core names, and what goes with these, as a file of requirements."""
    folder = tmp_path_factory.mktemp("lowest")
    (folder / "core.in").write_text("\n".join(CORE) + "\n", encoding="utf-8")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = ("pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", version)
    uv(*asked, folder / "core.in", "--output-file", folder / "core.txt")
    return folder / "core.txt"


def test_the_lowest_versions_go_together(lowest: Path) -> None:
    found = dict(re.findall(r"^([\w.-]+)==([\d.]+)", lowest.read_text(encoding="utf-8"), re.MULTILINE))
    bounds = dict(re.findall(r"^([\w.-]+)>=([\d.]+)$", "\n".join(CORE), re.MULTILINE))
    assert bounds.keys() <= found.keys() and len(bounds) == len(CORE)
    above = {name: found[name] for name, bound in bounds.items() if not f"{found[name]}.".startswith(f"{bound}.")}
    assert above == {}, "these bounds are lower than what can be installed"


@pytest.mark.timeout(1800)
def test_the_readmes_first_snippet_runs_on_the_lowest_versions(lowest: Path, tmp_path: Path) -> None:
    """Installs about 6 GB, torch's CUDA libraries among them, in an environment of its own."""
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", python, "-r", lowest)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    (tmp_path / "my-works").mkdir()
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "my-works" / "mine.png")
    ours = {"PYTHONPATH": str(ROOT), "DIFFSHIELD_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [python, "-c", snippet[1]], cwd=tmp_path, env={**os.environ, **ours}, capture_output=True, text=True
    )
    shutil.rmtree(tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == snippet[2], "what the README prints"
