"""What the command lines of all verbs share: options, lists in an option, printing, the exit status of a flag."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from probes.runs.progress import ProgressCallback

FLAGGED = 3

Model = Annotated[
    str,
    typer.Option(
        help="testbed, testbed-clean, a diffusers folder, a hub id owner/name, or a "
        "checkpoint in one file; MODEL+FILE adds a LoRA."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; by default the model's own.")]
Twin = Annotated[str | None, typer.Option(help="A model that never saw the works.")]
PolicyName = Annotated[str, typer.Option(help="balanced, strict, names or monitor.")]
Column = Annotated[str | None, typer.Option(help="Column with the prompts.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first prompts of the file.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; by default the model's own.")]
OwnSteps = Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps; by default the model's own.")]
Schedule = Annotated[
    int | None,
    typer.Option(
        "--steps", "--schedule", min=1, help="Denoising steps of a whole picture; by default the model's own."
    ),
]
OwnGuidance = Annotated[float | None, typer.Option("--guidance", help="Guidance scale; by default the model's own.")]
Concepts = Annotated[
    list[str] | None,
    typer.Option(
        help="A protected name, or a registry of concepts (.toml); repeat it. By default the names that ship."
    ),
]
GalleryAt = Annotated[
    str | None, typer.Option("--gallery", help="A folder of protected pictures, or a saved gallery's folder or name.")
]
Thresholds = Annotated[
    str | None,
    typer.Option(help="A folder that diffshield calibrate wrote to; without it what is missing is calibrated."),
]
StoredThresholds = Annotated[
    Path | None, typer.Option(help="A folder that diffshield calibrate wrote to; by default the stored ones.")
]
SearchBatch = Annotated[int, typer.Option(min=1, help="Draws of each search step.")]
Out = Annotated[Path, typer.Option(help="Run folder to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
FailOnFlag = Annotated[bool, typer.Option("--fail-on-flag", help="Exit with 3 if something was flagged.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def listed(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def size_of(text: str) -> tuple[int, int]:
    """A height and a width in pixels, as 832x1216. Raises typer.BadParameter."""
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"Sizes are heights and widths in pixels, as 1024x1024,832x1216; not {text!r}.")
    return int(height), int(width)


def numbers(text: str, kind: type) -> list[Any]:
    """The numbers of a comma-separated option. BadParameter for anything else, and for nan and infinity."""
    try:
        found = [kind(part) for part in listed(text)]
    except ValueError:
        found = []
    if not all(map(math.isfinite, found)) or bool(found) != bool(listed(text)):
        raise typer.BadParameter(f"Comma-separated numbers are needed, not {text!r}.")
    return found


def chosen(text: str, known: Iterable[str], what: str, usual: Iterable[str] | None = None) -> list[str]:
    """The names of a comma-separated option, `usual` (or all) without any. BadParameter for one that isn't known."""
    known = list(known)
    if unknown := set(listed(text)) - set(known):
        raise typer.BadParameter(f"no {what} {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    return listed(text) or list(known if usual is None else usual)


def printed(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """The result on stdout, for a program or for a person."""
    typer.echo(json.dumps(result, indent=1, ensure_ascii=False, default=str) if as_json else text)


def exit_if(flagged: object, asked: bool) -> None:
    """Ends with status FLAGGED if something was flagged and --fail-on-flag asked for that."""
    if asked and flagged:
        raise typer.Exit(FLAGGED)


@contextmanager
def bar(title: str) -> Iterator[ProgressCallback]:
    """A progress bar that opens at the first call, so that a mistake shows none."""
    from probes.runs.progress import bars

    with ExitStack() as stack:
        opened = cache(lambda: stack.enter_context(bars())(title))
        yield lambda done, total: opened()(done, total)
