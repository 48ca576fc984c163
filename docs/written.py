"""Pages that are made from the code and kept, so that the repository shows them too: python docs/written.py

The tutorials are the scripts of examples/; the list of names is what `import shield` and `import probes` offer.
"""

import inspect
from pathlib import Path
from types import ModuleType

from literate import page_of_script

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {
    "tutorials/shield.md": ("The shield", "examples/tutorial_shield.py"),
    "tutorials/audit.md": ("An audit", "examples/tutorial_audit.py"),
}


def pages() -> dict[str, str]:
    """Path below docs/ -> what it holds."""
    made = {
        page: page_of_script((ROOT / source).read_text(encoding="utf-8"), title, source)
        for page, (title, source) in SCRIPTS.items()
    }
    return {**made, "api/README.md": page_of_names()}


def page_of_names() -> str:
    """What may be imported, with the first sentence of its docstring and the file that it is in."""
    import probes
    import shield

    parts = [
        "# Names",
        "What `import shield` and `import probes` offer; the file that each links to holds the rest of its docstring, "
        "and the site (`make docs`) has all of them as pages: [shield](shield.md), [probes](probes.md).",
    ]
    for package in (shield, probes):
        rows = [row for name in sorted(package.__all__) if (row := _row(package, name))]
        parts += [f"## {package.__name__}", "\n".join(["| name | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _row(package: ModuleType, name: str) -> str:
    """A line of the table; nothing for what isn't a class or a function."""
    thing = inspect.unwrap(getattr(package, name))
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return ""
    file = Path(inspect.getsourcefile(thing) or "").resolve().relative_to(ROOT).as_posix()
    about = " ".join((inspect.getdoc(thing) or "").split()).split(". ")[0].rstrip(".").replace("|", "\\|")
    return f"| [`{package.__name__}.{name}`](../../{file}) | {about}. |"


if __name__ == "__main__":
    for page, text in pages().items():
        target = ROOT / "docs" / page
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target.relative_to(ROOT))
