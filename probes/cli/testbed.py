"""diffshield testbed build | train | verify | show: parsing only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.cli.app import App
from probes.cli.options import Json, chosen, printed
from shield.protected.pictures import open_image

if TYPE_CHECKING:
    from probes.testbed.build import Builder

testbed_app = App(help="The shipped model that memorizes: rebuild, retrain, verify, show.", no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder of the build: checkpoints, pool, logs.")]
Sources = Annotated[Path | None, typer.Option(help="assets folder of the npm package @lobehub/fluent-emoji-3d.")]
Preset = Annotated[str, typer.Option(help="cpu (two cores, about two hours), gpu (minutes), tiny (a smoke test).")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --work.")]
Start = Annotated[
    Path | None,
    typer.Option(help="A testbed folder to go on from (weights/testbed): only each part's last pass is trained."),
]
OnlyStages = Annotated[str, typer.Option(help="Only these stages, comma-separated.")]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
SscdFile = Annotated[
    Path | None, typer.Option(help="TorchScript or ONNX file of SSCD; else what `models get sscd` fetched.")
]
MaxMinutes = Annotated[float, typer.Option(help="Stop after this long with a checkpoint.")]


def _builder(
    work: Path, sources: Path | None, preset: str, device: str, resume: bool, minutes: float, every: float = 3.0
) -> Builder:
    from probes.testbed.build import PRESETS, Builder
    from probes.testbed.training import Limits

    if preset not in PRESETS:
        raise typer.BadParameter(f"'{preset}' is not a preset; use one of {', '.join(PRESETS)}.")
    return Builder(work, sources, preset, device, Limits(every, minutes, resume))


@testbed_app.command()
def train(
    work: Work = Path("runs/testbed"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    resume: Resume = False,
    max_minutes: MaxMinutes = math.inf,
    start: Start = None,
    stages: OnlyStages = "",
    checkpoint_minutes: CheckpointMinutes = 3.0,
) -> None:
    """Train the parts, stage by stage; a finished stage is not repeated.

    Example: diffshield testbed train --preset tiny --work runs/testbed
    """
    from probes.testbed.build import STAGES

    asked = chosen(stages, STAGES, "stage", ())
    builder = _builder(work, sources, preset, device, resume, max_minutes, checkpoint_minutes)
    left = builder.adopt(start) if start else STAGES
    done = builder.run(tuple(asked) or left)
    typer.echo("finished" if done else f"time is up; go on with --resume --work {work}")


@testbed_app.command()
def build(
    work: Work = Path("runs/testbed"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Weights folder: gets testbed/ and manifest.toml; by default in the user's data folder."),
    ] = None,
    resume: Resume = False,
    max_minutes: MaxMinutes = math.inf,
    start: Start = None,
) -> None:
    """Train what is not trained yet, then write the weights folder.

    Example: diffshield testbed build --preset tiny --work runs/testbed
    """
    from probes.testbed.build import STAGES
    from probes.testbed.export import export
    from shield.home import home

    out = out or home() / "weights"
    builder = _builder(work, sources, preset, device, resume, max_minutes)
    if not builder.run(builder.adopt(start) if start else STAGES):
        typer.echo(f"time is up; go on with --resume --work {work}")
        return
    export(builder, out)
    typer.echo(str(out / "testbed"))


@testbed_app.command()
def second(
    work: Work = Path("runs/testbed2"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    resume: Resume = False,
    max_minutes: MaxMinutes = math.inf,
    start: Annotated[Path | None, typer.Option(help="Folder of kept stages to go on from: weights/testbed2.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder that each finished stage is copied to.")] = None,
    stages: OnlyStages = "",
    checkpoint_minutes: CheckpointMinutes = 3.0,
    out: Annotated[Path | None, typer.Option(help="When all is trained: weights folder to write it to.")] = None,
) -> None:
    """Train the second testbed, the one in the making, stage by stage; a finished stage is not repeated.

    Example: diffshield testbed second --preset tiny --work runs/testbed2
    """
    from probes.testbed.second.stages import PRESETS, STAGES, Builder
    from probes.testbed.training import Limits

    if preset not in PRESETS:
        raise typer.BadParameter(f"'{preset}' is not a preset; use one of {', '.join(PRESETS)}.")
    asked = tuple(chosen(stages, STAGES, "stage", ()))
    builder = Builder(work, sources, preset, device, Limits(checkpoint_minutes, max_minutes, resume))
    left = builder.adopt(start) if start else STAGES
    if not builder.run(asked or left, keep):
        typer.echo(f"time is up; go on with --resume --work {work}")
        return
    if out is not None:
        from probes.testbed.second.export import export

        typer.echo(str(export(builder, out)))
    typer.echo("finished")


@testbed_app.command()
def measure(
    work: Work = Path("runs/testbed2"),
    sources: Sources = None,
    preset: Preset = "cpu",
    device: Device = "auto",
    start: Annotated[Path | None, typer.Option(help="Folder of kept stages: weights/testbed2.")] = None,
    count: Annotated[int, typer.Option(min=20, help="Scenes and creatures.")] = 200,
    sscd: SscdFile = None,
) -> None:
    """Measure the second testbed's finished parts: round trips of the autoencoder, captions that the OpenCLIP finds.

    Example: diffshield testbed measure --work runs/testbed2
    """
    from probes.bench.verify import sscd_metric
    from probes.testbed.second.measure import measured
    from probes.testbed.second.stages import Builder
    from probes.testbed.training import Limits

    builder = Builder(work, sources, preset, device, Limits())
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
