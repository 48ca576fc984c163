"""Every `diffshield ...` that a message, a docstring, the README or a page names is one that the command line takes."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.core
import typer.main

from ui.verb import app

ROOT = Path(__file__).resolve().parents[1]
GROUP = typer.main.get_command(app)
FOLDERS = ("shield", "probes", "ui", "examples", "benchmarks")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "examples").rglob("*.sh"),
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "probes").rglob("*.jinja"),
    *(ROOT / "weights").rglob("*.md"),
]
NAMED = re.compile(r"(?<![\w./-])diffshield (?!=)(?P<rest>[^`\n\"']*(?:\\\n[^`\n]*)*)")
VERB = re.compile(r"[a-z][a-z-]*")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OURS = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("shield", "probes", "ui")]
OTHERS = {"--porcelain", "--untracked-files", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"}
OTHERS |= {"--ignore-requires-python"}  # git's and pip's


@cache
def texts(path: Path) -> list[str]:
    """The text of a page; of a Python file its strings, with X for what is filled in, and its comments."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [source]
    tree, found = ast.parse(source), re.findall(r"#.*", source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.append(node.value)
    return found


def command_of(words: list[str]) -> Any:
    """The command that the first words name. LookupError where there is none."""
    command: Any = GROUP
    for word in words:
        if not isinstance(command, typer.core.TyperGroup):
            break
        if word not in command.commands:
            raise LookupError(f"{word!r} is none of {', '.join(command.commands)}")
        command = command.commands[word]
    return command


def options_of(command: Any) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}


def unknown(rest: str) -> Iterator[str]:
    """What stands behind `diffshield` and doesn't exist: verbs (several with | or commas between) and options."""
    head = re.split(r"\s--|[.;:](?:\s|$)|\s\(", rest)[0]
    path: list[str] = []
    for part in re.split(r"\s*[|,]\s*", head):
        words = [word for word in part.split() if VERB.fullmatch(word)]
        if not words:
            break
        try:
            path = words if words[0] in GROUP.commands else [*path[:1], *words]
            command = command_of(path)
        except LookupError as error:
            yield str(error)
            return
        if command is GROUP:
            break
    else:
        if path and "|" not in head:
            yield from sorted(set(OPTION.findall(rest)) - options_of(command_of(path)))


def test_commands_that_are_named_exist() -> None:
    found = [
        (str(path.relative_to(ROOT)), match["rest"][:80], wrong)
        for path in (*SOURCES, *PAGES)
        for text in texts(path)
        for match in NAMED.finditer(text)
        if VERB.match(match["rest"])
        if (wrong := list(unknown(match["rest"].replace("\\\n", " "))))
    ]
    assert not found


def every_option(command: Any = GROUP) -> set[str]:
    below = command.commands.values() if isinstance(command, typer.core.TyperGroup) else ()
    return options_of(command).union(*map(every_option, below))


def test_options_that_are_named_exist() -> None:
    known = every_option() | OTHERS
    found = [
        (str(path.relative_to(ROOT)), wrong)
        for path in OURS
        for text in texts(path)
        if (wrong := set(OPTION.findall(text)) - known)
    ]
    assert not found


def lines_of(path: Path) -> list[str]:
    """The lines of a page's code that are commands, continued ones as one."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^ *(?:\.venv/bin/|\$ )?diffshield ([a-z][^#|&>\n]*)", text, re.MULTILINE)


def test_commands_of_the_pages_are_parsed() -> None:
    lines = [line for path in PAGES if path.suffix == ".md" for line in lines_of(path)]
    assert len(lines) > 15
    for line in lines:
        words = ["50" if word in ("STEPS", "GUIDANCE", "N") else word for word in shlex.split(line)]
        context, command = GROUP.make_context("diffshield", list(words)), GROUP
        while isinstance(command, typer.core.TyperGroup):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, rest, parent=context)
        assert not context.args, line


def test_what_does_not_exist_is_found_out() -> None:
    assert sum(len(NAMED.findall(text)) for path in (*SOURCES, *PAGES) for text in texts(path)) > 100
    assert list(unknown("calibrate-copys.")) and list(unknown("scan PROMPTS --no-such")) == ["--no-such"]
    assert list(unknown("testbed polish")) and list(unknown("traps make | tset"))
    assert not list(unknown("traps make | test: parsing only")) and not list(unknown("scan p.txt --engine ray"))


def test_an_option_of_several_verbs_is_said_once() -> None:
    """Its name, kind and help are an alias: beside the verbs of one file, or in probes/cli/options.py."""
    said: dict[str, list[str]] = {}
    for path in (*(ROOT / "probes" / "cli").glob("*.py"), ROOT / "ui" / "verb.py"):
        for function in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(n, "args")):
            for given in getattr(function.args, "args", ()):
                option = ast.unparse(given.annotation) if given.annotation is not None else ""
                if option.startswith("Annotated["):
                    said.setdefault(option, []).append(f"{path.name}, {function.name}: {given.arg}")
    assert len(said) > 100
    assert [places for places in said.values() if len(places) > 1] == []
