"""shield <- probes <- ui: a package imports only what stands to its left, and shield nothing of ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"shield": {"shield"}, "probes": {"shield", "probes"}, "ui": {"shield", "probes", "ui"}}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, also inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_to_the_left(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported(path) & (MAY_IMPORT.keys() - MAY_IMPORT[package]))
        for path in files
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_no_package_imports_tests_or_benchmarks() -> None:
    files = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    assert [path for path in files if imported(path) & {"tests", "benchmarks"}] == []


def test_no_drawer_for_everything() -> None:
    names = ("utils.py", "helpers.py", "common.py", "base.py", "misc.py")
    assert [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py") if path.name in names] == []


@pytest.mark.parametrize(
    "module", ["shield", "probes", "probes.runs.folder", "probes.metrics", "probes.report.html", "probes.cli.main"]
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
