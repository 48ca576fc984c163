"""diffshield testbed train | measure | verify | show: parsing only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli.app import App
from probes.cli.options import Json, chosen, printed
from shield.protected.pictures import open_image

if TYPE_CHECKING:
    from probes.testbed.training.stages import Builder
    from probes.testbed.training.trainer import Limits

testbed_app = App(help="The shipped model that memorizes: train, measure, verify, show.", no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder of the training: checkpoints, pictures, pool, logs.")]
Sources = Annotated[Path | None, typer.Option(help="assets folder of the npm package @lobehub/fluent-emoji-3d.")]
Preset = Annotated[
    str, typer.Option(help="cpu (hours on two cores), gpu (more and longer of everything), tiny (a smoke test).")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --work.")]
Start = Annotated[
    Path | None,
    typer.Option(help="Folder to go on from: stages that --keep left, or an exported testbed (weights/testbed)."),
]
OnlyStages = Annotated[str, typer.Option(help="Only these stages, comma-separated.")]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
SscdFile = Annotated[
    Path | None, typer.Option(help="TorchScript or ONNX file of SSCD; else what `models get sscd` fetched.")
]
MaxMinutes = Annotated[float, typer.Option(help="Stop after this long with a checkpoint.")]


def _builder(work: Path, sources: Path | None, preset: str, device: str, limits: Limits | None = None) -> Builder:
    from probes.testbed.training.presets import PRESETS
    from probes.testbed.training.stages import Builder
    from probes.testbed.training.trainer import Limits

    if preset not in PRESETS:
        raise typer.BadParameter(f"'{preset}' is not a preset; use one of {', '.join(PRESETS)}.")
    return Builder(work, sources, preset, device, limits or Limits())


@testbed_app.command()
def train(
    work: Work = Path("runs/testbed"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    resume: Resume = False,
    max_minutes: MaxMinutes = math.inf,
    start: Start = None,
    keep: Annotated[Path | None, typer.Option(help="Folder that each finished stage is copied to.")] = None,
    stages: OnlyStages = "",
    checkpoint_minutes: CheckpointMinutes = 3.0,
    out: Annotated[
        Path | None, typer.Option(help="When all is trained: weights folder that gets testbed/ and manifest.toml.")
    ] = None,
) -> None:
    """Train the testbed, stage by stage; a finished stage is not repeated.

    Example: diffshield testbed train --preset tiny --work runs/testbed
    """
    from probes.testbed.training.stages import STAGES
    from probes.testbed.training.trainer import Limits

    asked = tuple(chosen(stages, STAGES, "stage", ()))
    builder = _builder(work, sources, preset, device, Limits(checkpoint_minutes, max_minutes, resume))
    left = builder.adopt(start) if start else STAGES
    if not builder.run(asked or left, keep):
        typer.echo(f"time is up; go on with --resume --work {work}")
        return
    if out is not None:
        from probes.testbed.export import export

        typer.echo(str(export(builder, out)))
    typer.echo("finished")


@testbed_app.command()
def measure(
    work: Work = Path("runs/testbed"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    start: Start = None,
    count: Annotated[int, typer.Option(min=20, help="Scenes and creatures.")] = 200,
    sscd: SscdFile = None,
) -> None:
    """Measure the finished parts of a training: round trips of the autoencoder, captions that the OpenCLIP finds; and
    draw the losses of all parts to curves.png in --work.

    Example: diffshield testbed measure --work runs/testbed
    """
    from probes.metrics.second_opinion import sscd_metric
    from probes.testbed.training.curves import plot
    from probes.testbed.training.measure import measured
    from probes.testbed.training.stages import KEPT

    plot(work, KEPT, work / "curves.png")
    builder = _builder(work, sources, preset, device)
    if start is not None:
        builder.adopt(start)
    printed(measured(builder, count, sscd_metric(sscd)), True, "")


@testbed_app.command()
def verify(
    out: Annotated[Path, typer.Option(help="Folder for verify.json and the contact sheets.")] = Path("runs/verify"),
    seeds: Annotated[int, typer.Option(help="Pictures per caption.")] = 10,
    sscd: SscdFile = None,
    as_json: Json = False,
) -> None:
    """Measure the testbed on its held-out split: copies by rung, non-members, scenes, whether captions bind.

    What was drawn stays in --out, so that the same command goes on after a break.

    Example: diffshield testbed verify --seeds 2
    """
    from probes.bench.verify import Verifier, table

    figures = Verifier(out, seeds, sscd=sscd).run()
    printed(figures, as_json, table(figures))
    if False in figures["passed"].values():
        raise typer.Exit(1)


@testbed_app.command()
def show(out: Annotated[Path, typer.Option(help="Folder for the sheet.")] = Path("runs/show")) -> None:
    """What is in the testbed: counts by kind and rung, and one sheet of its reference pictures.

    Example: diffshield testbed show --out runs/show
    """

    from probes.bench.sheets import sheet
    from probes.testbed.manifest import load_manifest

    manifest = load_manifest()
    groups = {
        f"works, {rung} exposures": [w for w in manifest.works(memorization="VM") if w.rung == rung]
        for rung in manifest.rungs
    }
    groups |= {
        "template works": manifest.works(memorization="TM"),
        "matched non-members": manifest.nonmembers(),
        "characters": manifest.characters(),
    }
    for name, items in groups.items():
        typer.echo(
            f"{len(items):4d} {name} ({sum(i.split == 'heldout' for i in items)} held out); e.g. {items[0].captions[0]}"
        )
    typer.echo(f"{len(manifest.scenes()):4d} scenes; e.g. {manifest.scenes()[0].caption}")
    out.mkdir(parents=True, exist_ok=True)
    rows = [[open_image(i.file) for i in items[:8] if i.file] for items in groups.values()]
    sheet(rows, list(groups), []).save(out / "testbed.png")
    typer.echo(str(out / "testbed.png"))
