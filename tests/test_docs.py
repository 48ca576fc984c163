"""The docs site: every page of its navigation is there, and it builds without a warning."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"index.md", "contributing.md", "changes.md", "tutorials/first-audit.md"}  # docs/hooks.py makes them


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


def literate(name: str = "literate") -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["tutorial_shield", "tutorial_audit"])
def test_a_scripts_page_has_all_of_its_code_and_its_comments_as_prose(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    page = literate().page_of_script(source, "Title", f"examples/{name}.py")
    code = "\n".join(re.findall(r"```python\n(.*?)\n```", page, re.DOTALL))
    lines = [line for line in source.split('"""\n', 1)[1].splitlines() if line.strip()]
    assert [line for line in code.splitlines() if line.strip()] == [line for line in lines if not line.startswith("#")]
    prose = re.sub(r"```python\n.*?\n```", "", page, flags=re.DOTALL)
    assert [line for line in lines if line.startswith("#") and line[2:] not in prose] == []


def test_pages_that_are_made_from_the_code_are_as_the_code_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    made = literate("written").pages()
    kept = {page: (ROOT / "docs" / page).read_text(encoding="utf-8") for page in made}
    assert kept == made, "run python docs/written.py"
    links = re.findall(r"\]\(([^)#]+)\)", made["api/README.md"])
    assert len(links) > 60 and [link for link in links if not (ROOT / "docs" / "api" / link).is_file()] == []


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []


def test_a_notebooks_page_has_its_cells_and_pictures() -> None:
    source = (ROOT / "examples" / "first_audit.ipynb").read_text(encoding="utf-8")
    page, pictures = literate().page_of_notebook(source, "first-audit")
    assert [name for name in pictures if f"({name})" not in page] == [] and len(pictures) == 2
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    cells = json.loads(source)["cells"]
    assert cells and [cell for cell in cells if "".join(cell["source"]) not in page] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_where_things_go_is_where_they_are(page: str) -> None:
    named = re.findall(r"`((?:shield|probes|ui|tests|docs)/[^`]*)`", (ROOT / page).read_text(encoding="utf-8"))
    places = [Path(place).parent if "NAME" in place else Path(place) for place in named]
    assert len(places) > 5 and [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the docs extra; make docs installs it")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Wraps a pipeline" in (tmp_path / "api" / "shield" / "index.html").read_text(encoding="utf-8")
