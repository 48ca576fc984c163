"""diffshield: the verbs. Parsing and printing only; what a verb does is in the module of its name.

stdout is the result, stderr the progress. Exit status: 0 done, 1 failed, 2 usage, 3 something was flagged and
--fail-on-flag was given, 130 interrupted. A user's mistake is one sentence on stderr; a traceback is our bug.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from probes.cli.bench import bench_app
from probes.cli.calibrate import register as register_calibrate
from probes.cli.methods import register as register_methods
from probes.cli.models import models_app
from probes.cli.options import (
    Column,
    Device,
    FailOnFlag,
    Guidance,
    Json,
    Limit,
    Model,
    Out,
    OwnGuidance,
    OwnSteps,
    Resume,
    exit_if,
    listed,
    numbers,
    printed,
)
from probes.cli.scan import register as register_scan
from probes.cli.testbed import testbed_app
from probes.cli.traps import traps_app
from shield.errors import ShieldError

FAILED, INTERRUPTED = 1, 130
# What a full or protected disk says; any other OSError is a bug of ours.
_DISK = (
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.ENAMETOOLONG,
)


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


app = typer.Typer(
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

Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default the testbed's own, else 25.")]
Works = Annotated[
    Path | None,
    typer.Option(
        "--prompts", help="Works to judge by, with reference pictures; by default the testbed's heldout ones."
    ),
]


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
    policy: Annotated[str, typer.Option(help="balanced, strict or monitor.")] = "balanced",
    device: Device = "auto",
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Draw one prompt behind the shield, and say what the shield saw."""
    from probes.verbs.generate import Request, shown

    found = shown(Request(prompt, model, seed, steps, guidance, policy, device), out, compare=compare)
    printed(found, as_json, _generated(found))
    exit_if(found["flagged"], fail_on_flag)


register_scan(app)


@app.command()
def localize(
    out: Out,
    prompts: Annotated[
        Path | None, typer.Argument(help="Memorized prompts; without them the testbed's dev works.")
    ] = None,
    model: Model = "testbed",
    method: Annotated[
        str, typer.Option(help="ffn_subspace, value_neurons, curvature (of ordinary prompts) or random_mask.")
    ] = "ffn_subspace",
    k: Annotated[float, typer.Option(min=0, max=1, help="Share of each row's weights, or of all at random.")] = 0.05,
    tau: Annotated[int, typer.Option(min=1, help="How many first denoising steps are watched.")] = 6,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--standard", help="Divide each token's activations by their norm (as published), or not."
        ),
    ] = True,
    conditional_only: Annotated[
        bool, typer.Option("--conditional-only", help="Leave the unconditional half out.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            help="Compare with: null, paraphrase (the same words in another order), "
            "nonmembers or scenes (testbed), or a prompt file. By default null; "
            "for value_neurons nonmembers."
        ),
    ] = None,
    unit: Annotated[str, typer.Option(help="weight or neuron.")] = "weight",
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(help="Decides the noise that all prompts start from.")] = 7,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Locate the weights behind prompts: a mask, how dense it is, how much the masks of other prompts overlap."""
    from probes.testbed.checkpoint import Checkpoint
    from probes.verbs.localize import lines_of, localizer_of
    from probes.verbs.localize import localize as locate

    sampling = _sampling(model, steps, guidance)
    options = {
        "k": k,
        "tau": tau,
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "normalize_tokens": normalize,
        "conditional_only": conditional_only,
        "unit": unit,
    }
    localizer = localizer_of(method, base, options, prompts, Checkpoint.of(model), column, limit)
    done = locate(
        prompts,
        out,
        localizer=localizer,
        model=model,
        column=column,
        limit=limit,
        seed=seed,
        device=device,
        resume=resume,
    )
    found = {"run": str(done.folder), "mask": str(done.file), "summary": done.summary}
    printed(found, as_json, "\n".join([*lines_of(done.summary), str(done.file)]))


@app.command()
def prune(
    mask: Annotated[Path, typer.Argument(help="A mask, or the run folder of localize.")],
    out: Out,
    model: Model = "testbed",
    prompts: Works = None,
    benign: Annotated[Path | None, typer.Option(help="Ordinary prompts; by default the testbed's scenes.")] = None,
    openclip: Annotated[Path | None, typer.Option(help="OpenCLIP folder that measures alignment.")] = None,
    sweep: Annotated[str, typer.Option(help="Comma-separated k: draws the trade-off curve.")] = "",
    save: Annotated[Path | None, typer.Option(help="Write the pruned model as a diffusers checkpoint.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 4,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Compare a model with its pruned self: copies, scores, alignment and drift; optionally save it."""
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.verbs.prune import PRUNE, lines_of
    from probes.verbs.prune import prune as compare

    request = AuditRequest(model, prompts, benign=benign, column=column, limit=limit, openclip=openclip, device=device)
    plan = replace(PRUNE, sampling=_sampling(model, steps, guidance), picture_seeds=tuple(range(9000, 9000 + seeds)))
    done = compare(mask, out, request, plan=plan, ks=numbers(sweep, float), save=save, resume=resume)
    _reported(done, as_json, lines_of(done.summary))


@app.command()
def attack(
    out: Out,
    mask: Annotated[Path | None, typer.Option(help="Prune this first: a mask, or the run folder of localize.")] = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Annotated[Path | None, typer.Option(help="Matched prompts and pictures, never trained on.")] = None,
    twin: Annotated[str | None, typer.Option(help="A model that never saw the works.")] = None,
    method: Annotated[
        str,
        typer.Option(
            "--attack",
            help="adversarial_embedding, prompt_search (words instead of an "
            "embedding) or paraphrase (the caption, distorted).",
        ),
    ] = "adversarial_embedding",
    at: Annotated[
        str,
        typer.Option(
            help="Comma-separated step counts to judge at; by default 0,1,10,25,50,150, and "
            "levels 0,1,2,3,4 of a paraphrase."
        ),
    ] = "",
    init: Annotated[str, typer.Option(help="Start from the caption, noise, or other (--init-prompt).")] = "caption",
    init_prompt: Annotated[str | None, typer.Option(help="The other prompt to start from.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Draws of each search step.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each embedding.")] = 2,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Try to bring works back, and the same on non-members and the clean twin: the gap is the verdict."""
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.verbs.attack import ATTACK, lines_of
    from probes.verbs.attack import attack as bring_back

    request = AuditRequest(model, prompts, nonmembers, column=column, limit=limit, twin=twin, device=device)
    plan = replace(ATTACK, sampling=_sampling(model, steps, guidance), picture_seeds=tuple(range(9000, 9000 + seeds)))
    done = bring_back(
        out,
        request,
        mask=mask,
        steps=numbers(at, int),
        init=init,
        init_prompt=init_prompt,
        batch=batch,
        plan=plan,
        method=method,
        resume=resume,
    )
    _reported(done, as_json, lines_of(done.summary))


@app.command()
def locality(
    out: Out,
    mask: Annotated[Path | None, typer.Option(help="Prune this first: a mask, or the run folder of localize.")] = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Annotated[Path | None, typer.Option(help="Matched prompts and pictures, never trained on.")] = None,
    works: Annotated[int, typer.Option(min=1, help="Works that are searched.")] = 4,
    starts: Annotated[int, typer.Option(min=2, help="Searches for each work, from noise.")] = 8,
    budget: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="Draws of each search step.")] = 8,
    masks: Annotated[str, typer.Option(help="Comma-separated: ffn_subspace, value_neurons.")] = "ffn_subspace",
    k: Annotated[float, typer.Option(min=0, max=1, help="Share of each row's weights in a subspace mask.")] = 0.05,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Is a memory in one place? Compares embeddings that bring a work back, their activations and their masks."""
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.verbs.locality import LOCALITY, lines_of
    from probes.verbs.locality import locality as analyze

    request = AuditRequest(model, prompts, nonmembers, column=column, limit=limit, device=device)
    plan = replace(
        LOCALITY,
        sampling=_sampling(model, steps, guidance),
        localizer=replace(LOCALITY.localizer, k=k),
        attack=replace(LOCALITY.attack, steps=budget, batch=batch),
    )
    done = analyze(out, request, mask=mask, works=works, starts=starts, masks=listed(masks), plan=plan, resume=resume)
    _reported(done, as_json, lines_of(done.summary))


@app.command()
def harden(
    out: Out,
    mask: Annotated[
        Path | None,
        typer.Option(help="Surrogates come from the model pruned by this: a mask, or the run folder of localize."),
    ] = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Annotated[Path | None, typer.Option(help="Matched prompts and pictures, never trained on.")] = None,
    benign: Annotated[
        Path | None,
        typer.Option(help="Ordinary prompts: half are kept, half are judged by; by default the testbed's scenes."),
    ] = None,
    twin: Annotated[str | None, typer.Option(help="A model that never saw the works.")] = None,
    method: Annotated[
        str, typer.Option(help="adversarial_fine_tuning, or a baseline: caption_fine_tuning, negative_guidance (ESD).")
    ] = "adversarial_fine_tuning",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the works, unless dev works end it early.")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Optimizer steps with each set of triggers.")] = 10,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by default 2e-4 for the testbed, else 1e-5.")] = None,
    together: Annotated[int, typer.Option(min=1, help="Works in one optimizer step.")] = 4,
    rank: Annotated[int, typer.Option(min=0, help="Train low-rank adapters of this rank; 0 trains the weights.")] = 0,
    works: Annotated[int, typer.Option(min=1, help="At most so many works are removed and judged.")] = 16,
    dev: Annotated[int, typer.Option(min=0, help="Further works that decide when to stop; 0 trains to the end.")] = 4,
    keep: Annotated[int, typer.Option(min=1, help="Ordinary prompts whose pictures are kept.")] = 64,
    at: Annotated[str, typer.Option(help="Comma-separated step counts to attack again at.")] = "0,1,10,50",
    save: Annotated[Path | None, typer.Option(help="Write the hardened model as a diffusers checkpoint.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each prompt and embedding.")] = 2,
    steps: Steps = None,
    guidance: Guidance = None,
    openclip: Annotated[Path | None, typer.Option(help="OpenCLIP folder that measures alignment.")] = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train memories out of the weights, then attack again beside non-members and the clean twin."""
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.testbed.checkpoint import Checkpoint
    from probes.verbs.harden import HARDEN, hardening, lines_of, usual_lr
    from probes.verbs.harden import harden as remove

    request = AuditRequest(model, prompts, nonmembers, benign, column, limit, twin, openclip, device)
    if lr is None:
        lr = usual_lr(Checkpoint.of(model))
    plan = replace(
        HARDEN,
        sampling=_sampling(model, steps, guidance),
        picture_seeds=tuple(range(9000, 9000 + seeds)),
        sizes=replace(HARDEN.sizes, members=works),
        hardening=hardening(
            method, members=works, dev=dev, keep=keep, epochs=epochs, updates=updates, lr=lr, batch=together, rank=rank
        ),
    )
    done = remove(out, request, mask=mask, steps=numbers(at, int), plan=plan, save=save, resume=resume)
    _reported(done, as_json, lines_of(done.summary))


@app.command()
def audit(
    out: Out,
    model: Model = "testbed",
    quick: Annotated[bool, typer.Option("--quick", help="Few works and seeds: minutes on two cores.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="csv, jsonl, parquet, txt or a folder of a data set.")] = None,
    column: Column = None,
    limit: Limit = None,
    twin: Annotated[str | None, typer.Option(help="A model that never saw the works.")] = None,
    device: Device = "auto",
    resume: Resume = False,
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Scan, shield, locate, prune, attack and harden a model, with controls; ends by naming the report."""
    from probes.audit.audit import audit as run_audit
    from probes.report.html import sentences_of

    done = run_audit(
        model, out, quick=quick, prompts=prompts, column=column, limit=limit, twin=twin, device=device, resume=resume
    )
    found = {"run": str(done.folder), "report": str(done.report) if done.report else None, "summary": done.summary}
    printed(found, as_json, "\n".join([*sentences_of(done.folder), "", f"Report: {done.report or done.folder}"]))
    exit_if(sum(row["copied"] for row in done.summary["rows"] if row["stage"] == "before"), fail_on_flag)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: Json = False) -> None:
    """Make report.html and report.json from a run folder, also of a run that was stopped."""
    from probes.report.html import write_report

    path = write_report(folder)
    printed({"report": str(path), "figures": str(path.with_suffix(".json"))}, as_json, str(path))


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


def _reported(done: Any, as_json: bool, lines: list[str]) -> None:
    """The result of a verb whose run folder has a report."""
    from probes.report.html import sentences_of

    found = {"run": str(done.folder), "report": str(done.report), "summary": done.summary}
    printed(found, as_json, "\n".join([*sentences_of(done.folder), *lines, "", f"Report: {done.report}"]))


def _sampling(model: str, steps: int | None, guidance: float | None) -> Any:
    from probes.drawing.draw import Sampling
    from probes.testbed.checkpoint import Checkpoint

    return Sampling(*Checkpoint.of(model).sampling(steps, guidance))


def _fail(sentence: str, status: int = FAILED) -> Any:
    typer.echo(f"diffshield: {sentence}", err=True)
    raise typer.Exit(status)


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
