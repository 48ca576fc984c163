"""diffshield traps make | test: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probes.cli.app import App
from probes.cli.options import Device, Json, Out, Resume, SearchBatch, listed, printed

traps_app = App(help="Pictures that prove whether a model was trained on them.", no_args_is_help=True)


@traps_app.command()
def make(
    out: Annotated[Path, typer.Option(help="Folder to write; it must be empty or new.")],
    count: Annotated[int, typer.Option(min=1, help="Traps for each number of copies.")] = 16,
    copies: Annotated[str, typer.Option(help="Comma-separated: how often traps are used.")] = "1,10,100",
    held_back: Annotated[int, typer.Option(min=1, help="Traps that are never used, to compare with.")] = 72,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 512,
    seed: Annotated[
        str, typer.Option(help="Secret whole number; by default 128 random bits. A small one can be guessed.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Make unguessable pictures with captions: some to publish in copies, some to hold back.

    Example: diffshield traps make --out traps --count 16
    """
    from probes.traps.make import Ladder
    from probes.traps.make import make as write

    try:
        rungs = tuple(map(int, listed(copies)))
        number = int(seed) if seed else None
    except ValueError:
        raise typer.BadParameter("--copies takes comma-separated whole numbers, and --seed a whole number.") from None
    made = write(out, Ladder(count, rungs, held_back, size), seed=number)
    lines = [
        f"{made['used']} traps to publish are in {out / 'used'}, {made['held_back']} to keep secret in "
        f"{out / 'held_back'}.",
        f"Publish this now, dated; keep manifest.json secret: {made['sha256']}",
    ]
    if made["guessable"]:
        lines.append("The seed is short enough to be guessed: use these traps for trying out only.")
    printed(made, as_json, "\n".join(lines))


@traps_app.command()
def test(
    model: Annotated[str, typer.Argument(help="testbed, testbed-clean, a diffusers folder, or a hub id owner/name.")],
    out: Out,
    traps: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by traps make; by default the testbed's works, against its matched non-members."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Timesteps and noises of the loss.")] = 16,
    attack_steps: Annotated[int, typer.Option(min=1, help="Steps of the search.")] = 5,
    batch: SearchBatch = 4,
    seed: Annotated[int, typer.Option(help="Decides timesteps and noises.")] = 0,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Was the model trained on traps? Exact p-values by rank among those that were held back.

    Example: diffshield traps test testbed --out runs/traps
    """
    from probes.attacks import AdversarialEmbedding
    from probes.traps.trial import Measure, format_trial, trial

    measure = Measure(draws, AdversarialEmbedding(steps=attack_steps, batch=batch), seed)
    done = trial(model, out, traps=traps, measure=measure, device=device, resume=resume)
    found = {"run": str(done.folder), "summary": done.summary}
    printed(found, as_json, "\n".join([*format_trial(done.summary), str(done.folder)]))
