"""records.jsonl: one line a record, appended and written through; a torn last line is none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TypedDict, cast

from probes.errors import RunError


class Record(TypedDict, total=False):
    """One line: a picture, a prompt's score, a located prompt or a measured trap. Each verb writes the keys it has.

    Attributes:
        id: Hash of configuration, stage, model, prompt, seed and attack_steps; unique in a run. Every record has one.
        stage: One of those in probes/audit/audit.py, or "locality", "benign" or "traps".
        item: Id in the manifest, or "prompt-0007" for line 7 of a user's own file.
        kind: "work", "nonmember", "character", "style", "scene", "prompt" (a user's own, nothing known) or "kept" (what
            a hardened model must go on answering; nothing is judged by it).
        memorization: "VM" (verbatim), "TM" (template) or None.
        rung: Nominal number of exposures in training; 0 of non-members, None if unknown.
        exposures: Those that were counted in training.
        split: "dev", "heldout" or None.
        model: What the model was called; None of a reference picture.
        prompt: The caption that was used, or that a search started from.
        seed: Of the initial noise; None of a reference picture.
        attack_steps: Optimization steps spent on the embedding; None outside of attacks.
        picture: Path relative to the run folder; None where none was made (scan), or the shield blocked it.
        scores: Metric or detector -> value; None where it couldn't be computed.
        copied: The copy criterion's verdict; None where it couldn't judge.
        unjudged: Why ``copied`` is None.
        columns: Other columns of the prompt's line in a user's own file; left out where there are none.
        flagged: Whether the first detector was over its threshold; None where it wasn't calibrated.
        trajectory: Of a scan at several points of the schedule: score and verdict at each.
        prompt_flagged: Of a scan with early exit: the decision on the prompt from the mean of its seeds.
        prompt_score: That mean.
        action: What the shield did: "pass", "mitigate" or "block".
        reason: The shield's verdict in a sentence.
        start: Of locality: the number of the noise that the search started from.
        copies: Of a trap: how often it was used; None of one that was held back.
        neurons: Of a located prompt: layer -> output neurons.
        before: Its score.
        after: Its score without these neurons.
        candidates: How many neurons were tried.
    """

    id: str
    stage: str
    item: str
    kind: str
    memorization: str | None
    rung: int | None
    exposures: int | None
    split: str | None
    model: str | None
    prompt: str
    seed: int | None
    attack_steps: int | None
    picture: str | None
    scores: Mapping[str, float | None]
    copied: bool | None
    unjudged: str | None
    columns: Mapping[str, Any]
    flagged: bool | None
    trajectory: Any
    prompt_flagged: bool | None
    prompt_score: float | None
    action: str
    reason: str | None
    start: int
    copies: int | None
    neurons: Mapping[str, Sequence[int]]
    before: float
    after: float
    candidates: int


def read_records(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            record = _parse(line)
            if record is not None:
                yield record
            elif line.endswith(b"\n"):  # a torn line has no end
                raise RunError(f"{path} is damaged: line {number} is no record.")


def _parse(line: bytes) -> Record | None:
    """One record, or None if the line is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line.decode("utf-8", "surrogatepass"), parse_constant=no_number)
    except (ValueError, RecursionError):
        return None
    return cast(Record, record) if isinstance(record, dict) and isinstance(record.get("id"), str) else None


def no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else no_number(text)


def open_records(folder: Path) -> FileIO:
    """Records open for appending after a torn last line has been cut off, locked against a second writer."""
    path = folder / "records.jsonl"
    try:
        file = FileIO(path, "ab")
    except OSError as error:
        raise RunError(f"Can't write to {folder}: {error.strerror or error}.") from error
    _lock(file, folder)
    # An append after half a line would make one broken line out of two records.
    complete = 0
    with open(path, "rb") as written:
        for line in written:
            if not line.endswith(b"\n"):
                break
            if _parse(line) is None:
                file.close()
                raise RunError(f"{path} is damaged: a line is no record, and it isn't one that was cut short.")
            complete += len(line)
        else:
            return file
    file.truncate(complete)
    return file


def _lock(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there, starting one run twice is up to the user.
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(f"Another process is writing to {folder}. Wait for it, or choose another --out.") from None
    except OSError:  # Some network file systems have no locks.
        return


def write_line(file: FileIO, line: bytes, folder: Path) -> None:
    start = os.fstat(file.fileno()).st_size
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        with suppress(OSError):  # where this fails too, the torn line is cut off on resuming
            file.truncate(start)
        raise RunError(
            f"Can't write to {folder}: {error.strerror or error}. Nothing that was written is lost; "
            "continue with --resume."
        ) from error
