"""diffshield: the verbs. Parsing and printing only; what a verb does is in the module of its name.

stdout is the result, stderr the progress. Exit status: 0 done, 1 failed, 2 what was given can't be used (see
failures.py), 3 something was flagged and --fail-on-flag was given, 130 interrupted. A user's mistake is one sentence on
stderr; a traceback is our bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from probes.cli.app import App
from probes.cli.bench import bench_app
from probes.cli.calibrate import register as register_calibrate
from probes.cli.failures import failure_of
from probes.cli.gallery import gallery_app
from probes.cli.methods import register as register_methods
from probes.cli.models import models_app
from probes.cli.options import (
    Column,
    Concepts,
    Device,
    FailOnFlag,
    GalleryAt,
    Json,
    Limit,
    Model,
    Out,
    OwnGuidance,
    OwnSteps,
    PolicyName,
    Resume,
    StoredThresholds,
    Thresholds,
    Twin,
    exit_if,
    printed,
    size_of,
)
from probes.cli.report import Gate, Junit, exit_if_missed, gates_of, parse_gates
from probes.cli.report import register as register_report
from probes.cli.scan import register as register_scan
from probes.cli.testbed import testbed_app
from probes.cli.traps import traps_app
from probes.cli.weights import register as register_weights
from shield.extras import extras_named


class Verbs(typer.core.TyperGroup):
    """Turns what a user can cause into one sentence and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with extras_named():
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if (told := failure_of(error)) is None:
                raise
            typer.echo(f"diffshield: {told[0]}", err=True)
            raise typer.Exit(told[1]) from error


app = App(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="A copyright shield and a memorization probe for text-to-image diffusion models.",
)
app.add_typer(testbed_app, name="testbed")
app.add_typer(bench_app, name="bench")
app.add_typer(traps_app, name="traps")
app.add_typer(models_app, name="models")
app.add_typer(gallery_app, name="gallery")


@app.callback(invoke_without_command=True)
def version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from shield.version import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Model = "testbed",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also the bare model and, of the testbed, the clean twin and the nearest work, side by side.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("runs/generate"),
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    steps: OwnSteps = None,
    guidance: OwnGuidance = None,
    size: Annotated[
        str | None, typer.Option(help="Height and width in pixels, as 832x1216; by default the model's own.")
    ] = None,
    policy: PolicyName = "balanced",
    concepts: Concepts = None,
    gallery: GalleryAt = None,
    thresholds: Thresholds = None,
    device: Device = "auto",
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Draw one prompt behind the shield, and say what the shield saw.

    Example: diffshield generate "an etching of a harbor" --model testbed --compare
    """
    from probes.verbs.generate import GenerationRequest, shown

    protecting = (tuple(concepts or ()), gallery, thresholds)
    sides = None if size is None else size_of(size)
    request = GenerationRequest(prompt, model, seed, steps, guidance, policy, device, *protecting, sides)
    found = shown(request, out, compare=compare)
    printed(found, as_json, _generated(found))
    exit_if(found["flagged"], fail_on_flag)


register_scan(app)


register_weights(app)


@app.command()
def audit(
    out: Out,
    model: Model = "testbed",
    quick: Annotated[bool, typer.Option("--quick", help="Few works and seeds: minutes on two cores.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="csv, jsonl, parquet, txt or a folder of a data set.")] = None,
    column: Column = None,
    limit: Limit = None,
    twin: Twin = None,
    thresholds: StoredThresholds = None,
    device: Device = "auto",
    resume: Resume = False,
    gate: Gate = None,
    junit: Junit = None,
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Scan, shield, locate, prune, attack and harden a model, with controls; ends by naming the report.

    Example: diffshield audit --model testbed --quick --out runs/audit
    """
    from probes.audit.audit import audit as run_audit
    from probes.report.html import read_run, sentences_of

    parse_gates(gate, junit)
    done = run_audit(
        model,
        out,
        quick=quick,
        prompts=prompts,
        column=column,
        limit=limit,
        twin=twin,
        device=device,
        resume=resume,
        thresholds=thresholds,
        say=lambda sentence: typer.echo(sentence, err=True),
    )
    found = {"run": str(done.folder), "report": str(done.report) if done.report else None, "summary": done.summary}
    checked = gates_of(gate, junit, done.summary, read_run(done.folder)[1] if gate else (), done.folder.name)
    words = [one.said for one in checked]
    lines = [*sentences_of(done.folder), *words, "", f"Report: {done.report or done.folder}"]
    printed({**found, "gates": words}, as_json, "\n".join(lines))
    exit_if_missed(checked)
    exit_if(sum(row["copied"] for row in done.summary["rows"] if row["stage"] == "before"), fail_on_flag)


register_report(app)
register_calibrate(app)
register_methods(app)


def _generated(found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    reasons = "; ".join(reason["text"] for reason in verdict["reasons"]) or "nothing was flagged"
    lines = [f"shield: {verdict['status']} ({reasons})"]
    if verdict["rewritten_prompt"]:
        lines.append(f"rewritten to: {verdict['rewritten_prompt']}")
    for label, copy in found["copies"].items():
        words = {True: "a copy of", False: "no copy; nearest is", None: "can't be judged; nearest is"}[copy["copied"]]
        scores = ", ".join(f"{name} {value:.3g}" for name, value in copy["scores"].items() if value is not None)
        lines.append(f"{label}: {words} {copy['work']} ({scores})")
    return "\n".join([*lines, list(found["pictures"].values())[-1]])


SPINS = "10000"
"""How long OpenMP's threads wait for each other before they sleep (GCC's runtime, by default 300,000 rounds).

benchmarks/busy_cores.py measures what it saves beside other work and what it costs without.
"""


def main() -> None:
    """Entry point of the console script."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded, which is later
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()
