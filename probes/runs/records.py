"""records.jsonl: one line a record, appended and written through; a torn last line is none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from probes.errors import RunError

Record = dict[str, Any]


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
    return record if isinstance(record, dict) and isinstance(record.get("id"), str) else None


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
