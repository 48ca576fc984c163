"""diffshield report | compare: parsing and printing only; and the gates that audit shares with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.cli.options import FLAGGED, Json, printed

if TYPE_CHECKING:
    from probes.report.summary import Measured
    from probes.runs.records import Record

Gate = Annotated[
    list[str] | None,
    typer.Option(
        help="A limit for the upper bound of a share, as copies<=0.02; repeat it. Names: copies, shielded, pruned, "
        "hardened, attacked, hardened-attacked, flagged. A missed gate exits with 3."
    ),
]
Junit = Annotated[Path | None, typer.Option(help="With --gate: write the results as JUnit XML here.")]


def register(app: typer.Typer) -> None:
    """Adds these verbs to the command line."""
    for verb in (report, compare):
        app.command()(verb)


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    gate: Gate = None,
    junit: Junit = None,
    model_card: Annotated[
        bool, typer.Option("--model-card", help="Also model-card.md: the Hub's model-index and a section.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make report.html and report.json from a run folder, also of a run that was stopped.

    Example: diffshield report runs/audit --model-card
    """
    from probes.report.html import read_run, write_report
    from probes.report.model_card import write_model_card

    parse_gates(gate, junit)
    path = write_report(folder)
    found = {"report": str(path), "figures": str(path.with_suffix(".json"))}
    if model_card:
        found["model_card"] = str(write_model_card(folder))
    run, records, figures = read_run(folder)
    checked = gates_of(gate, junit, figures, records, run.folder.name)
    words = [one.said for one in checked]
    printed({**found, "gates": words}, as_json, "\n".join([*words, *(found.values() if model_card else [str(path)])]))
    exit_if_missed(checked)


def compare(
    before: Annotated[Path, typer.Argument(help="The run folder of the earlier state.")],
    after: Annotated[Path, typer.Argument(help="The run folder of the later state.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write; by default beside the later run, compare-BEFORE-AFTER.html.")
    ] = None,
    gate: Gate = None,
    junit: Junit = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, such as before and after a release: differences with intervals, and a page of both.

    Example: diffshield compare runs/v1 runs/v2 --gate "copies<=0.05"
    """
    from probes.report.compare import compare as compare_runs
    from probes.report.compare import format_comparison, page_of, write_comparison

    parse_gates(gate, junit)
    one, other, found = compare_runs(before, after)
    path = write_comparison(one, other, found, out or page_of(before, after))
    checked = gates_of(gate, junit, other.figures, other.records, other.name)
    words = [one.said for one in checked]
    result = {"page": str(path), **found, "gates": words}
    printed(result, as_json, "\n".join([*format_comparison(found), *words, "", f"Page: {path}"]))
    exit_if_missed(checked)


def parse_gates(gate: Sequence[str] | None, junit: Path | None) -> None:
    """Refuses a gate that can't be read before anything is done."""
    from probes.report.gates import Gate as Limit

    if junit is not None and not gate:
        raise typer.BadParameter("--junit goes with --gate.")
    for text in gate or ():
        Limit.parsed(text)


def gates_of(
    gate: Sequence[str] | None, junit: Path | None, figures: Measured, records: Sequence[Record], run: str
) -> list[Any]:
    """The gates' results, written as JUnit XML where that was asked for."""
    from probes.report.gates import check_gates, write_junit

    checked = check_gates(gate or (), figures, records)
    if junit is not None:
        write_junit(junit, checked, run)
    return checked


def exit_if_missed(checked: Sequence[Any]) -> None:
    """Ends with status FLAGGED if a gate was missed."""
    if any(not one.held for one in checked):
        raise typer.Exit(FLAGGED)
