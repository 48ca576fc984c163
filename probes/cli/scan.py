"""diffshield scan | merge: parsing and printing only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.cli.options import (
    Column,
    Concepts,
    Device,
    Dtype,
    FailOnFlag,
    GalleryAt,
    Guidance,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    Schedule,
    StoredThresholds,
    exit_if,
    listed,
    numbers,
    printed,
)


def register(app: typer.Typer) -> None:
    """Adds these verbs to the command line."""
    for verb in (scan, merge):
        app.command()(verb)


def scan(
    out: Out,
    prompts: Annotated[
        Path | None,
        typer.Argument(
            help="csv, jsonl, parquet, txt or a folder of a data set; without it the testbed's own captions."
        ),
    ] = None,
    model: Model = "testbed",
    column: Column = None,
    limit: Limit = None,
    seeds: Annotated[int, typer.Option("--seeds", "--max-seeds", min=1, help="Noises for each prompt.")] = 1,
    detectors: Annotated[str, typer.Option(help="Comma-separated; the first one flags.")] = "structure_gap,noise_gap",
    read_steps: Annotated[int, typer.Option(min=1, help="How many first denoising steps the detectors read.")] = 1,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Score at several points of the schedule, with one false-alarm rate.")
    ] = False,
    points: Annotated[
        str | None, typer.Option(help="With --trajectory: shares of the schedule; by default 0 and the usual one.")
    ] = None,
    steps: Schedule = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Also pictures and copy scores.")] = False,
    guidance: Guidance = None,
    batch: Annotated[
        str, typer.Option(help="Prompts at once, or auto: 16 on a CPU, the fastest that fits on a GPU.")
    ] = "auto",
    early_exit: Annotated[
        bool, typer.Option("--early-exit", help="Prompts far from the threshold stop before their last seed.")
    ] = False,
    error: Annotated[
        float, typer.Option(help="With --early-exit: share of prompts that may be decided otherwise than by all seeds.")
    ] = 0.01,
    pilot: Annotated[
        Path | None,
        typer.Option(
            help="With --early-exit: a finished scan with the same options to "
            "calibrate on; by default one of random prompts of the file."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, ray, or torchrun (one shard for each process that torchrun or srun started).")
    ] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Ray workers; by default one for each GPU.")] = None,
    ray_address: Annotated[str, typer.Option(help="local, auto, or a cluster's address.")] = "local",
    shard: Annotated[
        str | None, typer.Option(help="i/n: the i-th of n parts, from 0; diffshield merge puts them together.")
    ] = None,
    thresholds: StoredThresholds = None,
    concepts: Concepts = None,
    gallery: GalleryAt = None,
    words: Annotated[
        int,
        typer.Option(min=0, help="Flagged prompts whose words are weighed, at a denoiser call and its gradient each."),
    ] = 16,
    tpr: Annotated[
        str | None,
        typer.Option(
            help="Share of memorized prompts that the detector flags, for the prevalence: 45/50, or the "
            "folder of a scan of prompts that are known to be memorized."
        ),
    ] = None,
    benign: Annotated[
        int,
        typer.Option(min=0, help="With --pictures and several seeds: benign prompts whose seeds are compared as well."),
    ] = 20,
    dtype: Dtype = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Memory layout of a UNet's weights.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the denoiser.")] = False,
    device: Device = "auto",
    resume: Resume = False,
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Score which prompts look memorized; a table, results.parquet, and with --pictures whether they are copies.

    Example: diffshield scan prompts.csv --model testbed --out runs/scan --limit 100
    """
    from probes.drawing.draw import Sampling
    from probes.scan.pilot import EarlyExit
    from probes.scan.scan import ExecutionConfig, format_scan
    from probes.scan.scan import scan as scan_prompts
    from probes.scan.shards import Shard, launched
    from probes.testbed.checkpoint import Checkpoint
    from shield.runtime.trajectory import USUAL_POINTS

    if points and not trajectory:
        raise typer.BadParameter("--points goes with --trajectory.")
    places = (numbers(points, float) if points else USUAL_POINTS) if trajectory else None
    size = _batch(batch)
    execution = ExecutionConfig(engine, workers, ray_address, size, dtype, channels_last, compiled)
    part = Shard.parsed(shard) if shard else None
    if engine == "torchrun":
        part, local = launched()
        out, device, execution = part.folder(out), _device(device, local), replace(execution, engine="local")
    done = scan_prompts(
        prompts,
        out,
        model=model,
        column=column,
        limit=limit,
        seeds=range(500, 500 + seeds),
        detectors=listed(detectors),
        steps=read_steps,
        pictures=pictures,
        device=device,
        resume=resume,
        sampling=Sampling(*Checkpoint.of(model).sampling(steps, guidance), size or Sampling.batch_size),
        execution=execution,
        shard=part,
        early_exit=EarlyExit(error, pilot) if early_exit else None,
        points=places,
        thresholds=thresholds,
        concepts=concepts or (),
        gallery=gallery,
        words=words,
        tpr=tpr,
        benign=benign,
        say=lambda sentence: typer.echo(sentence, err=True),
    )
    _shown(done, format_scan(done.summary), as_json, fail_on_flag)


def merge(
    shards: Annotated[list[Path], typer.Argument(help="The run folders of all shards of one scan.")],
    out: Out,
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Put the shards of a scan together: the run folder that one process would have written.

    Example: diffshield merge runs/scan-0 runs/scan-1 --out runs/scan
    """
    from probes.scan.merge import merge as merge_shards
    from probes.scan.scan import format_scan

    done = merge_shards(shards, out)
    _shown(done, format_scan(done.summary), as_json, fail_on_flag)


def _batch(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"--batch takes a number from 1 on, or auto; not {text!r}.")
    return int(text)


def _device(device: str, local: int) -> str:
    """A process's own GPU, where there are GPUs and none was named."""
    import torch

    return f"cuda:{local % torch.cuda.device_count()}" if device == "auto" and torch.cuda.is_available() else device


def _shown(done: Any, lines: Sequence[str], as_json: bool, fail_on_flag: bool) -> None:
    flagged = done.folder / "flagged.csv"
    listed = [str(flagged)] if flagged.is_file() else []
    found = {"run": str(done.folder), "table": str(done.table), "summary": done.summary}
    printed(found, as_json, "\n".join([*lines, *listed, str(done.table)]))
    exit_if(done.summary["flagged"], fail_on_flag)
