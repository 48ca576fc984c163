"""Installed from wheels, outside of the checkout: the README's first snippet and `diffshield generate` work."""

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from probes.testbed.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[1]
BUILT = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".venv")
SOURCES = {
    "package": ("pyproject.toml", "LICENSE", "NOTICE", "README.md", "shield", "probes", "ui"),
    "testbed": tuple(f"weights/{name}" for name in ("pyproject.toml", "NOTICE", "README.md", "manifest.toml")),
}


def ran(command: list[str | Path], folder: Path, **environment: str) -> str:
    """What a command says; without the variables that lead back into the checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DIFFSHIELD_WEIGHTS")}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**kept, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheels(folder: Path) -> list[Path]:
    """The wheels of the package and of the testbed, built from copies."""
    for name in ("package", "testbed"):
        for source in SOURCES[name]:
            copy = folder / name / Path(source).name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, copy, ignore=BUILT)
            else:
                shutil.copy(ROOT / source, copy)
    for name in ("testbed", "thresholds"):
        shutil.copytree(ROOT / "weights" / name, folder / "testbed" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    ran([*pip, "-w", folder / "wheels", folder / "package", folder / "testbed"], folder)
    return sorted((folder / "wheels").glob("*.whl"))


def contents(folder: Path) -> dict[str, str]:
    """Every installed file of ours and its sha256, but what Python compiles."""
    ours = ("shield", "probes", "ui", "diffusion_shield_testbed")
    files = [file for name in ours for file in (folder / name).rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return {file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The Python and the packages' folder of an environment with the two wheels; all else is the tests' own."""
    folder = tmp_path_factory.mktemp("installed")
    built = wheels(folder)
    assert [wheel.name.split("-")[0] for wheel in built] == ["diffusion_shield", "diffusion_shield_testbed"]
    print(*(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB" for wheel in built))
    ran([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    packages = Path(ran([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    outer = Path(pytest.__file__).resolve().parents[1]
    (packages / "outer.pth").write_text(
        f"{outer}\n"
    )  # a plain line: the .pth files there, ours among them, aren't read
    ran([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", *built], folder)
    return python, packages


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readmes_first_snippet_and_generate(installed: tuple[Path, Path], tmp_path: Path) -> None:
    python, packages = installed
    before = contents(packages)
    assert "diffusion_shield_testbed/manifest.toml" in before and "shield/wrapper.py" in before
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    (tmp_path / "my-works").mkdir()
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "my-works" / "mine.png")
    home = {"DIFFSHIELD_HOME": str(tmp_path / "home")}
    code = "import shield\nprint(shield.__file__, shield.__version__)\n" + snippet[1]
    place, said = ran([python, "-c", code], tmp_path, **home).split("\n", 1)
    file, version = place.split()
    assert Path(file).is_relative_to(packages) and version == "0.1.0"
    assert said == snippet[2], "what the README prints"
    caption = load_manifest().shown()[0].captions[0]
    said = ran([python.parent / "diffshield", "generate", caption], tmp_path, **home)
    assert "shield: mitigated" in said and list((tmp_path / "runs" / "generate").glob("*.png"))
    assert contents(packages) == before
