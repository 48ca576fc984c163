"""python -m benchmarks [NAMES] [--out DIR]: measure, print a table, write benchmarks.json and scan.png.

Of an earlier benchmarks.json in the folder the other benchmarks' figures are kept.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.plots import plot
from probes.runs.folder import write_json
from probes.runs.provenance import versions
from shield.errors import ShieldError

BENCHMARKS = (
    "copy_scores",
    "gallery_queries",
    "shield_overhead",
    "shield_paths",
    "attack_batching",
    "localization_cost",
    "scan_throughput",
    "scan_early_exit",
    "scan_memory",
    "scan_workers",
    "real_size",
    "real_calibration",
    "busy_cores",
)


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.json and scan.png.")] = Path("runs/bench"),
) -> None:
    """Measure what things cost on this machine, each in a process of its own: none inherits another's memory."""
    unknown = set(names or ()) - set(BENCHMARKS)
    if unknown:
        raise typer.BadParameter(f"There is no benchmark {', '.join(sorted(unknown))}; use {', '.join(BENCHMARKS)}.")
    chosen = names or BENCHMARKS
    if len(chosen) == 1:
        one(chosen[0], out)
        return
    for name in chosen:
        if status := subprocess.run([sys.executable, "-m", "benchmarks", name, "--out", str(out)]).returncode:
            raise typer.Exit(status)


def one(name: str, out: Path) -> None:
    """Measures this benchmark here, and writes it beside the others' figures."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "benchmarks.json"
    try:
        rows = [asdict(figure) for figure in import_module(f"benchmarks.{name}").measure()]
    except ShieldError as error:
        typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo("\n".join([name, *map(line, rows)]))
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found[name] = {"machine": machine(), "versions": versions(), "figures": rows}
    write_json(file, found)
    plot({name: each["figures"] for name, each in found.items()}, out / "scan.png")
    typer.echo(str(file))


def line(figure: dict[str, Any]) -> str:
    spread = f"({figure['low']:.3g} to {figure['high']:.3g}, {figure['repeats']} repeats)"
    return (
        f"  {figure['name']:<58}{figure['value']:>10.3g} {figure['unit']:<6} {spread if figure['repeats'] > 1 else ''}"
    ).rstrip()


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
    }


typer.run(main)
