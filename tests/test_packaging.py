"""The wheel holds three packages and what they need, and nothing else; a stranger called "shield" is noticed."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy without .venv and weights, so that nothing in the checkout changes."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "NOTICE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("shield", "probes", "ui", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("diffusion_shield-*.whl")))


def test_the_wheel_holds_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert top == {"shield", "probes", "ui"}


def test_the_wheel_holds_every_module_and_template(wheel: zipfile.ZipFile) -> None:
    shipped = set(wheel.namelist())
    kinds = (".py", ".jinja", ".html", ".css", ".json", ".toml")
    files = [
        path.relative_to(ROOT).as_posix()
        for package in ("shield", "probes", "ui")
        for path in (ROOT / package).rglob("*")
        if path.suffix in kinds
    ]
    assert [name for name in files if name not in shipped] == []
    assert "probes/report/report.html.jinja" in files
    assert {f"{package}/py.typed" for package in ("shield", "probes", "ui")} <= shipped


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without __init__.py works from the checkout and is missing from the wheel."""
    folders = {path.parent for package in ("shield", "probes", "ui") for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_metadata_names_the_license_the_script_and_open_ranges(wheel: zipfile.ZipFile) -> None:
    names = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    about = Parser().parsestr(wheel.read(names["METADATA"]).decode())
    assert about["Name"] == "diffusion-shield" and about["License-Expression"] == "Apache-2.0"
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= names.keys()
    assert "diffshield = ui.verb:main" in wheel.read(names["entry_points.txt"]).decode()
    asked = [text.split(";")[0] for text in about.get_all("Requires-Dist")]
    assert [text for text in asked if re.search("<|==|~=", text)] == [], "ranges stay open upwards"


def test_constraints_cover_what_the_project_asks_for(wheel: zipfile.ZipFile) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {line.split("==")[0] for line in lines}
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    wanted = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist")
    asked = {
        re.split(r"[^A-Za-z0-9._-]", text)[0].lower()
        for text in wanted
        if "extra" not in text or re.search(r"extra == .(test|probes|ui|serve|ray|lora|local).$", text)
    }
    assert asked - pinned == {"diffusion-shield"}, "the extra test names other extras"
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("package, importing", [("shield", "probes"), ("shield", "ui"), ("probes", "ui")])
def test_a_stranger_of_the_same_name_is_noticed(package: str, importing: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(tmp_path)!r}); import {importing}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and str(tmp_path / package) in last and f"called '{package}'" in last
