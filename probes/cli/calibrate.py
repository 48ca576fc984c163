"""diffshield calibrate | calibrate-copies | -gallery | -concepts | -watch: parsing and printing only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.cli.options import (
    Column,
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    OwnGuidance,
    OwnSteps,
    Schedule,
    bar,
    listed,
    numbers,
    printed,
    size_of,
)

Fpr = Annotated[float, typer.Option(help="Share of such prompts or pictures that may be flagged.")]
OwnFolder = Annotated[
    Path | None,
    typer.Option(help="Folder to write to; by default in the user's data folder, where every verb looks first."),
]
Registry = Annotated[
    list[Path] | None,
    typer.Option(help="Registry of concepts (TOML), several times if need be; by default the testbed's characters."),
]


def register(app: typer.Typer) -> None:
    """Adds these verbs to the command line."""
    for verb in (calibrate, calibrate_copies, calibrate_gallery, calibrate_concepts, calibrate_watch):
        app.command(name=verb.__name__.replace("_", "-"))(verb)


def calibrate(
    model: Model = "testbed",
    detectors: Annotated[str, typer.Option(help="Comma-separated.")] = "structure_gap,noise_gap",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts known not to be memorized by this model; by default benign ones that ship."),
    ] = None,
    column: Column = None,
    limit: Limit = None,
    negatives: Annotated[
        str | None,
        typer.Option(help="Of the testbed, without --prompts: nonmembers, scenes or both (its default), or benign."),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="Comma-separated heights and widths in pixels, as 1024x1024,832x1216.")
    ] = "",
    strength: Annotated[str, typer.Option(help="Comma-separated strengths of image to image.")] = "",
    image: Annotated[
        Path | None, typer.Option(help="A picture for image to image; by default smooth random colors.")
    ] = None,
    dtype: Dtype = None,
    fpr: Annotated[float, typer.Option(help="Share of such prompts that may be flagged.")] = 0.01,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Noises for each prompt; by default one of eight (8 each of the testbed's own)."),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(help="Shares of the schedule to score at, such as 0,0.4, with one false-alarm rate for all."),
    ] = None,
    steps: OwnSteps = None,
    guidance: OwnGuidance = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Prompts at once; by default 4 on a CPU, else 8.")] = None,
    out: OwnFolder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the thresholds and scores that a stopped calibration left in --out.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make a model's thresholds from prompts that it is known not to have memorized.

    Example: diffshield calibrate --model testbed --detectors structure_gap
    """
    from dataclasses import asdict

    from probes.verbs.calibrate import CalibratedCalls, calibrate_detectors
    from shield.model.assets import own_thresholds_folder

    settings = CalibratedCalls(tuple(size_of(one) for one in listed(sizes)), tuple(numbers(strength, float)), image)
    with bar("calibrate") as progress:
        made = calibrate_detectors(
            model,
            listed(detectors),
            out or own_thresholds_folder(),
            prompts=prompts,
            column=column,
            limit=limit,
            negatives=listed(negatives) if negatives else None,
            seeds=range(100, 100 + seeds) if seeds else None,
            fpr=fpr,
            settings=replace(settings, steps=steps, guidance_scale=guidance, dtype=dtype),
            batch_size=batch,
            resume=resume,
            points=numbers(points, float) if points else None,
            device=device,
            say=lambda sentence: typer.echo(sentence, err=True),
            progress=progress,
        )
    places = {path: f" at {t.options['point']:g}" if "point" in t.options else "" for path, t in made.items()}
    lines = [
        f"{t.detector}{places[path]}: flags above {t.value:.4g} for latents of {list(t.setting.latent_shape)} from "
        f"timestep {t.setting.timesteps[0]:g} ({t.negatives} negatives, at most {t.fpr:.1%} flagged"
        f"{' at all points together' if places[path] else ''}), {path}"
        for path, t in made.items()
    ]
    lines += [] if out is None else [f"Every verb that flags finds them with --thresholds {out}"]
    printed({str(path): asdict(threshold) for path, threshold in made.items()}, as_json, "\n".join(lines))


def calibrate_copies(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures that don't copy each other.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    false_copy_rate: Annotated[float, typer.Option(min=0, max=1, help="Share of them that may count as copies.")] = 0.0,
    margin: Annotated[float, typer.Option(min=0, max=1, help="How far beyond them, towards a perfect copy.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Make the thresholds of the copy scores from pictures that are known not to be copies.

    Example: diffshield calibrate-copies pictures --out copies.json
    """
    from dataclasses import asdict

    from probes.verbs.calibrate_copies import calibrate_copies as make

    made = make(pictures, out, false_copy_rate=false_copy_rate, margin=margin)
    lines = [
        f"{c.metric}: copy {'above' if c.higher_is_copy else 'below'} {c.threshold:.4g} ({c.n} pictures, nearest "
        f"pair {c.nearest:.4g}, {c.unscored} unscored)"
        for c in made
    ]
    printed({c.metric: asdict(c) for c in made}, as_json, "\n".join([*lines, str(out)]))


def calibrate_gallery(
    gallery: Annotated[Path, typer.Argument(help="A saved gallery, or a folder of protected pictures.")],
    noncopies: Annotated[Path, typer.Argument(help="Folder of pictures that copy none of those, nor each other.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to save the gallery; by default where it was; of pictures, in the user's data folder."
        ),
    ] = None,
    fpr: Fpr = 0.01,
    as_json: Json = False,
) -> None:
    """Make a gallery's copy threshold from pictures that are known not to be copies.

    Example: diffshield calibrate-gallery pictures others
    """
    from probes.verbs.calibrate_protected import calibrate_gallery as make

    made, saved = make(gallery, noncopies, out, fpr=fpr)
    found = {
        "gallery": str(saved),
        "works": len(made),
        "correlation": made.correlation,
        "tile_distance": made.tile_distance,
        "provenance": made.provenance,
    }
    printed(
        found,
        as_json,
        f"copy above a correlation of {made.correlation:.4g} or with no tile further than "
        f"{made.tile_distance:.4g} ({len(made)} pictures protected), {saved}",
    )


def calibrate_concepts(
    registry: Registry = None,
    openclip: Annotated[
        str,
        typer.Option(
            help="testbed, an OpenCLIP folder, NAME:PRETRAINED as open_clip lists them, or hf-hub:OWNER/NAME."
        ),
    ] = "testbed",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that mean none of the concepts; by default benign ones that ship, without a registry the "
            "characters' generic neighbors."
        ),
    ] = None,
    fpr: Fpr = 0.01,
    out: OwnFolder = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Also say what the screens find and flag on the testbed, both splits; without a registry."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the limit above which a prompt means a protected concept without naming it.

    Example: diffshield calibrate-concepts --registry mine.toml --prompts benign.txt
    """
    from dataclasses import asdict

    from probes.verbs.calibrate_protected import calibrate_concepts as make

    if check and registry:
        raise typer.BadParameter("--check knows the testbed's characters alone; leave --registry out.")
    path, limit = make(out, registry=registry or (), openclip=openclip, prompts=prompts, fpr=fpr)
    found: dict[str, Any] = {"file": str(path), "limit": asdict(limit)}
    lines = [
        f"meant above a similarity of {limit.value:.4g} ({limit.negatives} negatives, at most {limit.fpr:.1%} "
        f"flagged), {path}"
    ]
    if check:
        from probes.verbs.screens import checked, format_screens

        found["check"] = [asdict(rate) for rate in checked(limit, openclip)]
        lines += format_screens(found["check"])
    printed(found, as_json, "\n".join(lines))


def calibrate_watch(
    model: Model = "testbed",
    points: Annotated[
        str,
        typer.Option(help="Comma-separated shares of the schedule, 0 the first step; as in Policy(watch_steps=...)."),
    ] = "0,0.5",
    gallery: Annotated[
        Path | None, typer.Option(help="A saved gallery or a folder of pictures; of the testbed, by default its works.")
    ] = None,
    registry: Registry = None,
    openclip: Annotated[str | None, typer.Option(help="Also look for the concepts, with this CLIP.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Benign prompts; by default those that ship.")] = None,
    fpr: Fpr = 0.01,
    seeds: Annotated[int, typer.Option(min=1, help="Noises for each prompt.")] = 1,
    preview: Annotated[str, typer.Option(help="linear or decode.")] = "linear",
    steps: Schedule = None,
    guidance: OwnGuidance = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 8,
    out: OwnFolder = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make the thresholds of the trajectory watch: how like protected pictures benign prompts come out on the way.

    Example: diffshield calibrate-watch --model testbed --points 0,0.5
    """
    from dataclasses import asdict

    from probes.verbs.calibrate_protected import calibrate_watch as make
    from shield.model.assets import own_thresholds_folder

    shares = numbers(points, float)
    with bar("calibrate") as progress:
        made = make(
            model,
            shares,
            out or own_thresholds_folder(),
            gallery=gallery,
            registry=registry or (),
            openclip=openclip,
            prompts=prompts,
            seeds=range(100, 100 + seeds),
            fpr=fpr,
            preview=preview,
            schedule=steps,
            guidance_scale=guidance,
            batch_size=batch,
            device=device,
            progress=progress,
        )
    lines = [
        f"{t.detector} at {t.options['share']:g}: flags above {t.value:.4g} ({t.negatives} negatives, at most "
        f"{t.fpr:.1%} flagged), {path}"
        for path, t in made.items()
    ]
    printed({str(path): asdict(threshold) for path, threshold in made.items()}, as_json, "\n".join(lines))
