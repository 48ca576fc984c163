"""The docs site: every page of its navigation is there, and it builds without a warning."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"index.md", "contributing.md", "changes.md"}  # docs/hooks.py makes them


def pages(nav: object) -> list[str]:
    """Files of a navigation, however deep."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_of_the_navigation_is_there() -> None:
    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert [page for page in named if page not in GENERATED and not (ROOT / "docs" / page).is_file()] == []
    assert GENERATED <= set(named)


def test_every_module_of_the_tables_is_in_the_reference() -> None:
    tables = (
        "shield/detectors",
        "shield/mitigations",
        "shield/rewriters",
        "probes/localizers",
        "probes/pruners",
        "probes/attacks",
        "probes/hardeners",
    )
    text = "".join((ROOT / "docs" / "api" / f"{name}.md").read_text(encoding="utf-8") for name in ("shield", "probes"))
    modules = [
        f"{table.replace('/', '.')}.{file.stem}"
        for table in tables
        for file in (ROOT / table).glob("*.py")
        if file.stem != "__init__"
    ]
    assert [name for name in modules if f"::: {name}\n" not in text] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the docs extra; make docs installs it")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Wraps a pipeline" in (tmp_path / "api" / "shield" / "index.html").read_text(encoding="utf-8")
