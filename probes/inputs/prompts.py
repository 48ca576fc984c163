"""What an audit asks about: prompts with what is known of them, from a testbed's manifest or a user's own file.

A user's file is txt (a prompt a line), csv (comma, semicolon or tab), jsonl, parquet, or a folder in the layout of
Hugging Face's ``imagefolder`` (metadata.csv, metadata.jsonl or parquet files). One column holds prompts; another may
name each prompt's reference picture, relative to the file. Without one nobody can tell a copy, and the audit says so.
Every other column stays with its prompt, so that results can be joined with whatever the file came from.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

from probes.errors import PromptFileError

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text", "title")
PICTURE_COLUMNS = ("picture", "reference", "file_name", "file", "image", "path")
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # UTF-32's first: it begins like UTF-16's
_FOLDER_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "*.parquet", "prompts.*")


@dataclass(frozen=True)
class PromptRecord:
    """One prompt and what is known about it; ``reference`` is the picture it might be a memory of.

    ``kind`` is a manifest's ("work", "nonmember", ...) or "prompt" for a line of a user's file. ``columns`` are that
    line's other texts, numbers and truth values by the names of the file's columns. ``lost`` is the picture that it
    names where no such file is there.
    """

    id: str
    prompt: str
    kind: str = "prompt"
    reference: Path | None = None
    memorization: str | None = None
    rung: int | None = None
    exposures: int | None = None
    split: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    lost: str | None = None

    @property
    def member(self) -> bool:
        """Whether it is known to have been in the training data more than zero times."""
        return self.kind == "work" and (self.rung is None or self.rung > 0)


def prompt_record(item: Any, caption: int = 0) -> PromptRecord:
    """A manifest item as a target, with one of its captions."""
    return PromptRecord(
        item.id,
        item.captions[caption % len(item.captions)],
        item.kind,
        item.file,
        item.memorization,
        item.rung,
        item.exposures,
        item.split,
    )


def read_prompts(path: Path, *, column: str | None = None, limit: int | None = None) -> list[PromptRecord]:
    """The prompts of a file, in its order; empty prompts are left out. PromptFileError if that isn't possible.

    ``column`` names the prompts' column; without it the first known name (prompt, caption, text ...) is taken. Stops
    reading after ``limit`` prompts.
    """
    return list(each_prompt(path, column=column, limit=limit))


def each_prompt(path: Path, *, column: str | None = None, limit: int | None = None) -> Iterator[PromptRecord]:
    """The same one at a time, for files that don't fit in memory. Errors come when they are met."""
    files = _files_of(path)
    rows = enumerate(((file, *row) for file in files for row in _rows(file, column)), start=1)
    found = ((line, *row) for line, row in rows if row[1])
    count = 0
    for line, file, prompt, picture, columns in itertools.islice(found, limit):
        count += 1
        reference = _picture(file, picture)
        lost = picture if reference is None else None
        yield PromptRecord(f"prompt-{line:06d}", prompt, reference=reference, columns=columns, lost=lost)
    if not count:
        raise PromptFileError(f"{' and '.join(map(str, files[:2]))} holds no prompt; it needs at least one.")


def lost_pictures(records: Sequence[PromptRecord]) -> list[str]:
    """A sentence about the pictures that are named and aren't there; none where all are."""
    lost = [record.lost for record in records if record.lost is not None]
    if not lost:
        return []
    return [
        f"{len(lost)} of {len(records)} prompts name a reference picture that isn't there, such as {_short(lost[0])}, "
        "and count as without one: paths start at the prompt file's folder."
    ]


def _files_of(path: Path) -> list[Path]:
    """The file itself, or all files of a folder that match the first pattern any does: data sets come in shards."""
    if path.is_dir():
        for pattern in _FOLDER_FILES:
            if files := [file for file in sorted(path.rglob(pattern)) if file.suffix in FORMATS]:
                return files
        raise PromptFileError(f"The folder {path} holds no metadata.csv, metadata.jsonl or parquet file with prompts.")
    if not path.exists():
        raise PromptFileError(f"There is no prompt file at {path}.")
    if path.suffix.lower() not in FORMATS:
        raise PromptFileError(f"Prompts are read from {', '.join(FORMATS)} files, and {path.name} is none of these.")
    return [path]


def _rows(file: Path, column: str | None) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """(prompt, name of its picture or None, the other columns) for each row; the prompt may be empty."""
    if file.suffix.lower() == ".txt":
        if column is not None:
            raise PromptFileError(f"{file} has no columns, only a prompt a line; leave --column {column} out.")
        yield from ((line.strip(), None, {}) for line in _lines(file))
        return
    read = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[file.suffix.lower()]
    names: tuple[str, str | None] | None = None
    for number, row in enumerate(read(file), start=1):
        if names is None:
            names = _columns(file, list(row), column)
        prompt, picture = row.get(names[0]), row.get(names[1]) if names[1] else None
        if prompt is not None and not isinstance(prompt, str):
            raise PromptFileError(
                f"{file}, row {number}: column {_short(names[0])} needs text, and holds {_short(prompt)}."
            )
        others = {name: _kept(value) for name, value in row.items() if name and name != names[0]}
        columns = {name: value for name, value in others.items() if value is not None}
        yield (prompt or "").strip(), picture if isinstance(picture, str) and picture else None, columns


def _kept(value: Any) -> str | int | float | bool | None:
    """A column's value as a record holds it; None for what is no text, number, truth value or date."""
    if isinstance(value, date):
        return value.isoformat()
    is_kept = isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value))
    return value if is_kept else None


def _lines(file: Path) -> Iterator[str]:
    """Lines as UTF-8, or as UTF-16 or UTF-32 where a byte order mark says so; the mark is dropped.

    PromptFileError names the first line that can't be read.
    """
    with open(file, "rb") as stream:
        start = stream.read(4)
    marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)
    if marked is not None:
        yield from _marked_lines(file, marked)
        return
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise PromptFileError(
                    f"{file}, line {number}: byte {byte:#04x} is not UTF-8. Save the file as UTF-8, "
                    f"for instance: iconv -f latin1 -t utf-8 {file.name}"
                ) from error


def _marked_lines(file: Path, encoding: str) -> Iterator[str]:
    try:
        with open(file, encoding=encoding, newline="") as stream:
            yield from stream
    except UnicodeError as error:
        raise PromptFileError(f"{file} begins like {encoding.upper()} and isn't: {error}. Save it as UTF-8.") from error


def _csv(file: Path) -> Iterator[Mapping[str, Any]]:
    first = next(_lines(file), "")
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(_lines(file), delimiter=delimiter)
        for row in reader:
            if None in row:
                raise PromptFileError(
                    f"{file}, line {reader.line_num} has more fields than the header has columns: put texts that hold "
                    f"a {delimiter!r} in double quotes, or save prompts alone as .txt, one a line."
                )
            yield row
    except csv.Error as error:
        raise PromptFileError(f"{file} can't be read as csv: {error}.") from error


def _jsonl(file: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptFileError(f"{file}, line {number} is not JSON: {error}.") from error
        row = {"prompt": row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise PromptFileError(f"{file}, line {number} needs an object or a string, and is {type(row).__name__}.")
        yield row


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise PromptFileError(f"{file} can't be read as parquet: {said}.") from error


def _columns(file: Path, names: Sequence[str], column: str | None) -> tuple[str, str | None]:
    """Names of the columns with prompts and with pictures (or None)."""
    by_lower = {name.strip().lower(): name for name in names if name}
    wanted = (column.lower(),) if column else PROMPT_COLUMNS
    prompt = next((by_lower[name] for name in wanted if name in by_lower), None)
    if prompt is None:
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise PromptFileError(
            f"{file} needs a column {column or ' or '.join(PROMPT_COLUMNS)}; it has "
            f"{', '.join(map(_short, names[:20]))}{more}. Name one with --column."
        )
    return prompt, next((by_lower[name] for name in PICTURE_COLUMNS if name in by_lower), None)


def _short(value: Any) -> str:
    """The value as it would be typed, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _picture(file: Path, name: str | None) -> Path | None:
    """The reference picture, if that file exists; a name that is a URL or missing counts as none."""
    if name is None:
        return None
    path = file.parent / name
    try:
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError):  # a caption that got into the column is no valid file name
        return None
