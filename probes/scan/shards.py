"""A scan in parts: the i-th of n takes every n-th prompt to a folder of its own, and merging puts them back in order.

Shards share nothing while they run, so they suit any launcher: SLURM arrays, torchrun, or n terminals. A record's id
and scores don't depend on the shard that made it, so the merged run equals the run of one process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from probes.errors import ShardError
from probes.runs.folder import Run, is_of_model, write_json
from probes.runs.records import Record
from shield.errors import BadRequestError

Item = TypeVar("Item")
# Rank, number of ranks and rank on this machine, as torchrun and SLURM call them.
LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Shard:
    """Prompts index, index + of, index + 2 of, ... of a file."""

    index: int = 0
    of: int = 1

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """From "2/8": the third of eight. BadRequestError for anything else."""
        first, _, second = text.partition("/")
        if first.isdigit() and second.isdigit() and int(first) < int(second):
            return cls(int(first), int(second))
        raise BadRequestError(f"A shard is written i/n with i from 0 to n - 1, not {text!r}.")

    def own(self, items: Iterable[Item]) -> Iterator[Item]:
        return itertools.islice(items, self.index, None, self.of)

    def count(self, total: int) -> int:
        """How many of so many items are this shard's."""
        return max(0, -(-(total - self.index) // self.of))

    def folder(self, out: Path) -> Path:
        """Where it goes when all shards are given one folder."""
        return out / f"shard-{self.index:04d}-of-{self.of:04d}"


def launched(environment: Mapping[str, str] = os.environ) -> tuple[Shard, int]:
    """This process's shard and its rank on this machine, from torchrun's variables or SLURM's. BadRequestError."""
    for rank, size, local in LAUNCHERS:
        if rank in environment and size in environment:
            shard = Shard.parsed(f"{environment[rank]}/{environment[size]}")
            return shard, int(environment.get(local, "0"))
    raise BadRequestError(
        "The engine torchrun takes its shard from RANK and WORLD_SIZE (torchrun sets them) or from "
        "SLURM_PROCID and SLURM_NTASKS (srun does), and none are set. Use --shard i/n."
    )


def merged_records(runs: Sequence[Run]) -> Iterator[Record]:
    """All shards' records in the order of the prompt file; one shard's turn is one prompt with all its seeds."""
    turns = [itertools.groupby(run.records(), key=lambda record: record["item"]) for run in runs]
    while turns:
        for turn in list(turns):
            following = next(turn, None)
            if following is None:
                turns.remove(turn)
            else:
                yield from following[1]


def opened(folders: Sequence[Path]) -> list[Run]:
    """The shards of one scan in order. ShardError if they aren't, if one is missing, there twice, or not complete."""
    runs = [Run.open(folder) for folder in folders]
    for run in runs:
        if not isinstance(run.config.get("shard"), list):
            raise ShardError(f"{run.folder} isn't a shard of a scan: it was made without --shard.")
        if run.status != "complete":
            raise ShardError(f"{run.folder} is {run.status}, not complete. Go on with it: add --resume to its command.")
    runs.sort(key=lambda run: run.config["shard"])
    about = [
        ({**run.config, "shard": None}, run.about["model"].get("name"), [one["sha256"] for one in run.about["inputs"]])
        for run in runs
    ]
    other = next(
        (
            run
            for run, one in zip(runs, about, strict=True)
            if one != about[0] or not is_of_model(run, runs[0].about["model"])
        ),
        None,
    )
    if other is not None:
        raise ShardError(
            f"{other.folder} and {runs[0].folder} aren't shards of one scan: options, model or prompts differ."
        )
    wanted = runs[0].config["shard"][1] if runs else 0
    if not runs or [run.config["shard"][0] for run in runs] != list(range(wanted)):
        given = ", ".join(str(run.config["shard"][0]) for run in runs) or "none"
        raise ShardError(f"All {wanted} shards are needed, 0 to {wanted - 1}, each once; given: {given}.")
    return runs


def merge_stages(runs: Sequence[Run], out: Path) -> list[dict[str, Any]]:
    """stages.json with the shards' times and evaluations added up."""
    from probes.runs.stage_log import Stages

    entries: dict[str, dict[str, Any]] = {}
    for run in runs:
        for entry in Stages(run.folder).entries:
            sofar = entries.setdefault(entry["stage"], {**entry, "seconds": 0.0, "evaluations": 0, "detail": {}})
            sofar["seconds"] = round(sofar["seconds"] + entry["seconds"], 3)
            sofar["evaluations"] += entry["evaluations"]
            words = {**sofar["detail"].get("words", {}), **entry["detail"].get("words", {})}
            sofar["detail"] = {**(sofar["detail"] or entry["detail"]), **({"words": words} if words else {})}
    write_json(out / "stages.json", list(entries.values()))
    return list(entries.values())
