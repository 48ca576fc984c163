"""A package imports only what stands to its left, and a folder only what stands above it in its package's order."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"shield": {"shield"}, "probes": {"shield", "probes"}, "ui": {"shield", "probes", "ui"}}
# Bottom up. Those of one line know nothing of each other.
ORDER = {
    "shield": """
        errors home version method_table
        benign model_names extras
        thresholds reasons signals
        model
        types
        hooks
        protected
        detectors mitigations rewriters
        runtime
        calibration
        wrapper
    """,
    "probes": """
        errors paths library
        runs
        types
        model
        metrics pruners
        localizers attacks
        report
        testbed
        hardeners traps
        inputs
        drawing
        scan
        audit
        verbs
        bench api
        cli
    """,
}


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, also inside of functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


IMPORTS = {name: set(imported(path)) for name, path in MODULES.items()}


def floors(package: str) -> dict[str, int]:
    """Folder or module on top of the package -> its floor."""
    lines = ORDER[package].split("\n")
    return {room: floor for floor, line in enumerate(lines) for room in line.split()}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_to_the_left(package: str) -> None:
    ours = {name: names for name, names in IMPORTS.items() if name.split(".")[0] == package}
    assert ours
    wrong = MAY_IMPORT.keys() - MAY_IMPORT[package]
    assert {
        name: found for name, names in ours.items() if (found := {n for n in names if n.split(".")[0] in wrong})
    } == {}


@pytest.mark.parametrize("package", ORDER)
def test_every_room_has_its_floor(package: str) -> None:
    rooms = {name.split(".")[1] for name in MODULES if name.startswith(package + ".")}
    assert rooms == floors(package).keys()


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_down(package: str) -> None:
    floor, wrong = floors(package), []
    for name, names in IMPORTS.items():
        for other in names:
            if name.startswith(package + ".") and other.startswith(package + "."):
                here, there = name.split(".")[1], other.split(".")[1]
                if here != there and floor[there] >= floor[here]:
                    wrong.append(f"{name} -> {other}")
    assert wrong == []


def test_no_circles() -> None:
    ours = {name: {other for other in names if other in MODULES and other != name} for name, names in IMPORTS.items()}
    try:
        TopologicalSorter(ours).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_package_imports_tests_or_benchmarks() -> None:
    tops = {name: {other.split(".")[0] for other in names} for name, names in IMPORTS.items()}
    assert [name for name, found in tops.items() if found & {"tests", "benchmarks"}] == []


# One class name in several modules, and what it means in all of them.
SHARED_NAMES = {"Sscd": "the method: a descriptor of galleries, a metric of copies"}


def test_a_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1}.keys() == SHARED_NAMES.keys()


def test_no_drawer_for_everything() -> None:
    names = ("utils.py", "helpers.py", "common.py", "base.py", "misc.py")
    assert [path for path in MODULES.values() if path.name in names] == []


@pytest.mark.parametrize(
    "module",
    [
        "shield",
        "shield.reasons",
        "probes",
        "probes.runs.folder",
        "probes.metrics",
        "probes.report.html",
        "probes.cli.main",
    ],
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_room_is_on_the_map() -> None:
    """CONTRIBUTING.md names each folder of the order, for who looks for a place."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [room for order in ORDER.values() for room in order.split()]
    assert [room for room in rooms if f"`{room}/`" not in text and f"`{room}`" not in text] == []
