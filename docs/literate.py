"""Scripts and notebooks as pages: their prose as prose, their code as code, their pictures as pictures."""

import base64
import json
import re


def page_of_script(source: str, title: str, file: str) -> str:
    """A script whose comments at the left margin are prose, as Markdown.

    Args:
        source: The script; its docstring ends with the command that runs it.
        title: The page's heading.
        file: Its path in the repository.
    """
    docstring, code = re.match(r'"""(.*?)"""\n(.*)', source, re.DOTALL).groups()  # type: ignore[union-attr]
    said, _, run = docstring.rpartition(": ")
    parts = [f"# {title}", f"{said}. Run it with `{run}`; a test does. Source: `{file}`."]
    for prose, block in re.findall(r"((?:^#.*\n)*)((?:^(?!#).*\n?)*)", code, re.MULTILINE):
        words = " ".join(line.lstrip("# ") for line in prose.splitlines())
        parts += [words] if words else []
        parts += [_fenced(block, "python")] if block.strip() else []
    return "\n\n".join(parts) + "\n"


def page_of_notebook(source: str, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook with the outputs it was kept with, as Markdown.

    Args:
        source: The notebook's JSON.
        name: What the page is called, which its pictures' names begin with.

    Returns:
        The page, and its pictures by file name, beside the page.
    """
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in json.loads(source)["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else _fenced(text, "python"))
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":  # progress and notes of libraries
                continue
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the cell above shows]({file})")
            else:
                parts.append(_fenced("".join(output.get("text") or data.get("text/plain", "")), "text"))
    return "\n\n".join(parts) + "\n", pictures


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"
