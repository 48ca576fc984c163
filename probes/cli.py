"""diffshield: the verbs. Parsing and printing only; what a verb does is in the module of its name.

stdout is the result, stderr the progress. Exit status: 0 done, 1 failed, 2 usage, 3 something was flagged and
--fail-on-flag was given, 130 interrupted. A user's mistake is one sentence on stderr; a traceback is our bug.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from probes.testbed.cli import testbed_app
from shield.errors import ShieldError

FAILED, FLAGGED, INTERRUPTED = 1, 3, 130
# What a full or protected disk says; any other OSError is a bug of ours.
_DISK = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR)


class Verbs(typer.core.TyperGroup):
    """Turns what a user can cause into one sentence and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ShieldError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            return _fail("Interrupted.", INTERRUPTED)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            return _fail(f"{error.filename or 'The disk'}: {error.strerror}.")


app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
                  help="A copyright shield and a memorization probe for text-to-image diffusion models.")
app.add_typer(testbed_app, name="testbed")

Model = Annotated[str, typer.Option(help="testbed, testbed-clean, a diffusers folder, or a hub id owner/name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(help="Guidance scale.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
FailOnFlag = Annotated[bool, typer.Option("--fail-on-flag", help="Exit with 3 if something was flagged.")]


@app.callback(invoke_without_command=True)
def version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from probes.runs import versions

        typer.echo(versions().get("diffusion-shield", "not installed: running from a source folder"))
        raise typer.Exit()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Model = "testbed",
    compare: Annotated[bool, typer.Option("--compare", help="Also the bare model and, of the testbed, the clean twin "
                                                           "and the nearest work, side by side.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("runs/generate"),
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    policy: Annotated[str, typer.Option(help="balanced, strict or monitor.")] = "balanced",
    device: Device = "auto",
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Draw one prompt behind the shield, and say what the shield saw."""
    from probes.compare import Request, shown

    found = shown(Request(prompt, model, seed, steps, guidance, policy, device), out, compare=compare)
    _print(found, as_json, _generated(found))
    if fail_on_flag and found["flagged"]:
        raise typer.Exit(FLAGGED)


@app.command()
def audit(
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    model: Model = "testbed",
    quick: Annotated[bool, typer.Option("--quick", help="Few works and seeds: minutes on two cores.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="csv, jsonl, parquet, txt or a folder of a data set.")] = None,
    column: Annotated[str | None, typer.Option(help="Column with the prompts.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts of the file.")] = None,
    twin: Annotated[str | None, typer.Option(help="A model that never saw the works.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Scan, shield, locate, prune and attack a model, with controls; ends by naming the report."""
    from probes.audit import audit as run_audit
    from probes.report import sentences_of

    done = run_audit(model, out, quick=quick, prompts=prompts, column=column, limit=limit, twin=twin, device=device,
                     resume=resume)
    found = {"run": str(done.folder), "report": str(done.report) if done.report else None, "summary": done.summary}
    _print(found, as_json, "\n".join([*sentences_of(done.folder), "", f"Report: {done.report or done.folder}"]))
    copied = sum(row["copied"] for row in done.summary["rows"] if row["stage"] == "before")
    if fail_on_flag and copied:
        raise typer.Exit(FLAGGED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Make report.html and report.json from a run folder, also of a run that was stopped."""
    from probes.report import write_report

    path = write_report(folder)
    _print({"report": str(path), "figures": str(path.with_suffix(".json"))}, as_json, str(path))


@app.command()
def calibrate(
    model: Model = "testbed",
    detectors: Annotated[str, typer.Option(help="Comma-separated.")] = "noise_gap,structure_gap",
    prompts: Annotated[Path | None, typer.Option(help="Prompts known not to be memorized by this model.")] = None,
    negatives: Annotated[str, typer.Option(help="Of the testbed, without --prompts: nonmembers, scenes or both, "
                                                "comma-separated.")] = "nonmembers",
    fpr: Annotated[float, typer.Option(help="Share of such prompts that may be flagged.")] = 0.01,
    seeds: Annotated[int, typer.Option(min=1, help="Noises for each prompt.")] = 8,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the thresholds; by default the shipped ones'.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make a model's thresholds from prompts that it is known not to have memorized."""
    from contextlib import ExitStack
    from dataclasses import asdict
    from functools import cache

    from probes.calibrate import calibrate_detectors
    from probes.progress import bars
    from shield.weights import weights_dir

    with ExitStack() as stack:
        bar = cache(lambda: stack.enter_context(bars())("calibrate"))  # opened late, so that a mistake shows none
        made = calibrate_detectors(model, _listed(detectors), out or weights_dir() / "thresholds", prompts=prompts,
                                   negatives=_listed(negatives), seeds=range(100, 100 + seeds), fpr=fpr, steps=steps,
                                   guidance_scale=guidance, device=device,
                                   progress=lambda done, total: bar()(done, total))
    lines = [f"{t.detector}: flags above {t.value:.4g} ({t.negatives} negatives, at most {t.fpr:.1%} flagged), {path}"
             for path, t in made.items()]
    _print({str(path): asdict(threshold) for path, threshold in made.items()}, as_json, "\n".join(lines))


@app.command(name="calibrate-copies")
def calibrate_copies(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures that don't copy each other; by default the "
                                                       "testbed's dev non-members.")] = None,
    false_copy_rate: Annotated[float, typer.Option(min=0, max=1, help="Share of them that may count as copies.")] = 0.0,
    margin: Annotated[float, typer.Option(min=0, max=1, help="How far beyond them, towards a perfect copy.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Make the thresholds of the copy scores from pictures that are known not to be copies."""
    from dataclasses import asdict

    from probes.calibrate import calibrate_copies as make

    made = make(out, pictures=pictures, false_copy_rate=false_copy_rate, margin=margin)
    lines = [f"{c.metric}: copy {'above' if c.higher_is_copy else 'below'} {c.threshold:.4g} ({c.n} pictures, nearest "
             f"pair {c.nearest:.4g}, {c.unscored} unscored)" for c in made]
    _print({c.metric: asdict(c) for c in made}, as_json, "\n".join([*lines, str(out)]))


def _generated(found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    reasons = "; ".join(verdict["reasons"]) or "nothing was flagged"
    lines = [f"shield: {verdict['status']} ({reasons})"]
    if verdict["rewritten_prompt"]:
        lines.append(f"rewritten to: {verdict['rewritten_prompt']}")
    for label, copy in found["copies"].items():
        words = {True: "a copy of", False: "no copy; nearest is", None: "can't be judged; nearest is"}[copy["copied"]]
        scores = ", ".join(f"{name} {value:.3g}" for name, value in copy["scores"].items() if value is not None)
        lines.append(f"{label}: {words} {copy['work']} ({scores})")
    return "\n".join([*lines, list(found["pictures"].values())[-1]])


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(result, indent=1, ensure_ascii=False, default=str) if as_json else text)


def _fail(sentence: str, status: int = FAILED) -> Any:
    typer.echo(f"diffshield: {sentence}", err=True)
    raise typer.Exit(status)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()
