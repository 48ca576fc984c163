"""Builds the site's pages that stand elsewhere in the repository, and names files that the site doesn't hold.

The README is the first page; CONTRIBUTING.md, CHANGELOG.md and the notebook are pages, too. Their links
lose the folder docs/. A link to a file outside of docs/ becomes the file's path.
"""

import re
from pathlib import Path
from typing import Any

from literate import page_of_notebook
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
NOTEBOOKS = {"tutorials/first-audit.md": "examples/first_audit.ipynb"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that stand outside of docs/."""
    for page, source in PAGES.items():
        text = LINK.sub(_from_docs, (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    for page, source in NOTEBOOKS.items():
        text, pictures = page_of_notebook((ROOT / source).read_text(encoding="utf-8"), Path(page).stem)
        files.append(File.generated(config, page, content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{Path(page).parent}/{name}", content=content))
    return files


def _from_docs(found: re.Match[str]) -> str:
    """A link of a page in the root, as seen from docs/."""
    target = found[3].removeprefix("docs/") if found[3].startswith("docs/") else f"../{found[3]}"
    return f"{found[1]}[{found[2]}]({target}{found[4] or ''})"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files that the site doesn't hold become those files' paths."""
    docs, folder = Path(config["docs_dir"]), Path(page.file.src_uri).parent

    def kept(found: re.Match[str]) -> str:
        target = (docs / folder / found[3]).resolve()
        if target.is_relative_to(docs):
            return found[0]
        return f"{found[2]} (`{target.relative_to(ROOT).as_posix()}`)" if target.is_relative_to(ROOT) else found[2]

    return LINK.sub(kept, markdown)
