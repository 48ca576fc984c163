"""Run folders: what was asked, with what, and one line for every result.

``run.json`` holds everything needed to repeat the run; it is written to a temporary name and renamed, so it is never
half there. ``records.jsonl`` only grows, one line written through to the operating system for each record, so a
killed process loses at most the record it was working on. Each record's id is a hash of the configuration, the prompt
and the seed: what is done already is known exactly, and a resumed run ends with the same records as one that was
never interrupted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack, cast

from probes.errors import RunChoiceError, RunError
from probes.runs.provenance import git_commit, versions
from probes.runs.records import Record, finite, no_number, open_records, read_records, write_line
from shield.errors import reason_of

SCHEMA = 1
STATUSES = ("running", "complete", "partial", "failed", "interrupted")


class ModelAbout(TypedDict, total=False):
    """Which weights: what the model is called, its fingerprint, and what it is known by (shield/model_names.py)."""

    name: str
    sha256: str | None
    values: str | None


class Notes(TypedDict, total=False):
    """What a verb keeps beside what every run holds.

    Attributes:
        known_ahead: Sentences that were told before the first picture.
        hardware: What a scan ran on: its ExecutionConfig with the batch size that was found.
    """

    known_ahead: list[str]
    hardware: dict[str, Any]


class RunAbout(Notes):
    """run.json.

    Attributes:
        schema: SCHEMA.
        kind: The verb.
        status: One of STATUSES.
        created: When the run began, UTC.
        updated: When the file was last written.
        config: All options, defaults included, as the verb names them.
        passed: Only what the user gave.
        model: Which weights.
        seeds: Of the initial noises.
        inputs: Files and folders: path and sha256.
        versions: Distribution -> version.
        git_commit: Of the source; None outside of a checkout.
        command: The command line.
        resumed: When the run was resumed.
        error: What it failed with, or None.
    """

    schema: int
    kind: str
    status: str
    created: str
    updated: str
    config: dict[str, Any]
    passed: Any
    model: ModelAbout
    seeds: list[int]
    inputs: list[dict[str, str]]
    versions: dict[str, str]
    git_commit: str | None
    command: list[str]
    resumed: list[str]
    error: str | None


def record_id(config: Mapping[str, Any], prompt: str, seed: int | None, **more: Any) -> str:
    """Sixteen hex digits that stand for one unit of work; equal arguments give equal ids in any process.

    ``more`` holds whatever else tells two records of a run apart (stage, model, attack_steps).
    """
    text = _canonical({"config": config, "prompt": prompt, "seed": seed, "more": more})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def made_folder(folder: Path) -> None:
    """Make a folder to write to, before the work whose result goes there. RunError if that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Can't write to {folder}: {error.strerror or error}.") from error
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """RunError where a folder can't be made or written to; makes nothing yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RunChoiceError(
            f"Can't write to {folder}: {os.strerror(errno.ENOTDIR if there != folder else errno.EEXIST)}."
        )
    if not os.access(there, os.W_OK):
        raise RunChoiceError(f"Can't write to {folder}: {os.strerror(errno.EACCES)}.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name and rename it: readers see the old file or the new one. RunError if it can't."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(_readable(value))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"Can't write {path}: {error.strerror or error}.") from error


def _readable(value: Any) -> str:
    """The value as JSON. Half of a surrogate pair, as an odd file name on the command line has it, is escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        text = json.dumps(value, indent=1, allow_nan=False, default=_plain)
    return text + "\n"


class Run:
    """One run folder. Open it to read, create or resume it to append; use it as a context manager while appending.

    Leaving the ``with`` block by an exception sets the status to "interrupted" (Ctrl-C) or "failed"; leaving it
    normally without ``finish`` sets "partial". A killed process leaves "running", which can be resumed like the
    others.
    """

    def __init__(self, folder: Path, about: RunAbout, records: FileIO | None = None) -> None:
        self.folder = folder
        self.about = about
        self._file = records
        self._held: list[Record] | None = None

    @classmethod
    def create(
        cls,
        folder: Path | str,
        config: Mapping[str, Any],
        *,
        kind: str,
        passed: Mapping[str, Any] | Sequence[str] = (),
        model: ModelAbout | None = None,
        seeds: Sequence[int] = (),
        inputs: Sequence[Mapping[str, str]] = (),
    ) -> Run:
        """Make a new run folder and open it for appending.

        ``config`` is complete, defaults included; ``passed`` is only what the user gave. ``model`` says which weights
        (name, revision, sha256). RunError if the folder holds a run already or can't be written.
        """
        folder = Path(folder)
        if (folder / "run.json").exists():
            raise RunChoiceError(
                f"There is a run in {folder} already. Add --resume to continue it, or choose another --out."
            )
        now = _now()
        about: RunAbout = {
            "schema": SCHEMA,
            "kind": kind,
            "status": "running",
            "created": now,
            "updated": now,
            "config": _round_trip(config),
            "passed": _round_trip(passed),
            "model": _round_trip(_with_values(model or {})),
            "seeds": list(seeds),
            "inputs": _round_trip(inputs),
            "versions": versions(),
            "git_commit": git_commit(),
            "command": list(sys.argv),
            "resumed": [],
            "error": None,
        }
        made_folder(folder)
        write_json(folder / "run.json", about)
        return cls(folder, about, open_records(folder))

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Read a run folder. RunError if it is none, is damaged, or was written by a newer version."""
        folder = Path(folder)
        path = folder / "run.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number, parse_float=finite)
        except FileNotFoundError:
            raise RunChoiceError(f"{folder} is not a run folder: it has no run.json.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} can't be read: {reason_of(error)}") from error
        if not isinstance(about, dict) or not isinstance(about.get("schema"), int):
            raise RunChoiceError(f"{path} is not a run's description: it has no schema number.")
        if about["schema"] > SCHEMA:
            raise RunChoiceError(
                f"{folder} was written by a newer version (schema {about['schema']}; this one reads up to "
                f"{SCHEMA}). Update diffusion-shield."
            )
        damaged = _damage(about)
        if damaged:
            raise RunError(f"{path} is damaged: {damaged}.")
        return cls(folder, cast(RunAbout, about))

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        config: Mapping[str, Any],
        *,
        inputs: Sequence[Mapping[str, str]] = (),
        model: ModelAbout | None = None,
    ) -> Run:
        """Open an existing run for appending. RunError if configuration, inputs or model differ from those it began
        with. Which weights a run of an older version began with isn't known, and not compared.
        """
        run = cls.open(folder)
        difference = _difference(run.config, _round_trip(config))
        if difference:
            raise RunChoiceError(
                f"{run.folder} was begun with another configuration ({difference}). "
                "Resume with the options it began with, or choose another --out."
            )
        then, now = [[given["sha256"] for given in given_inputs] for given_inputs in (run.about["inputs"], inputs)]
        if then != now:
            raise RunChoiceError(f"The inputs of {run.folder} have changed since it began. Choose another --out.")
        if not is_of_model(run, model or {}):
            raise RunChoiceError(
                f"{run.folder} was begun with other weights than {(model or {}).get('name')} has now. "
                "Resume with the model it began with, or choose another --out."
            )
        run._file = open_records(run.folder)
        again = [*run.about["resumed"], _now()]
        run._update({**run.about, "status": "running", "resumed": again, "error": None})
        return run

    @classmethod
    def start(
        cls,
        folder: Path | str,
        config: Mapping[str, Any],
        *,
        resume: bool,
        kind: str,
        inputs: Sequence[Mapping[str, str]] = (),
        model: ModelAbout | None = None,
        seeds: Sequence[int] = (),
    ) -> Run:
        """Resume if asked to and there is something to resume, create otherwise."""
        if resume and (Path(folder) / "run.json").exists():
            return cls.resume(folder, config, inputs=inputs, model=model)
        return cls.create(folder, config, kind=kind, inputs=inputs, model=model, seeds=seeds)

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    @property
    def status(self) -> str:
        return self.about["status"]

    def append(self, record: Record) -> None:
        """Write one record through to the operating system. RunError if the disk is full or a number isn't finite."""
        if self._file is None:
            raise RunError(f"{self.folder} is open for reading only.")
        if not isinstance(record.get("id"), str):
            raise RunError("A record needs an id: see record_id.")
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
        except ValueError as error:
            raise RunError(f"Record {record['id']} has a number that isn't finite: write null and say why.") from error
        write_line(self._file, line.encode("utf-8", "surrogatepass") + b"\n", self.folder)
        if self._held is not None:
            self._held.append(json.loads(line))

    def hold(self) -> None:
        """Read the records once and keep them from here on, for a run whose stages ask for them again and again."""
        self._held = list(self.records())

    def records(self) -> Iterator[Record]:
        """All complete records in the order of writing, a torn last line left out. RunError for damage elsewhere."""
        path = self.folder / "records.jsonl"
        if self._held is not None:
            yield from self._held[:]
        elif path.exists():
            yield from read_records(path)

    def done_ids(self) -> set[str]:
        """Ids of everything that needn't be done again."""
        return {record["id"] for record in self.records()}

    def note(self, **more: Unpack[Notes]) -> None:
        """Keep more in run.json while the run goes on."""
        self._update({**self.about, **more})

    def finish(self, status: str = "complete", error: str | None = None) -> None:
        """Close the records and say how it ended."""
        if status not in STATUSES:
            raise RunError(f"A run can't end as {status!r}: use one of {', '.join(STATUSES)}.")
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        self._update({**self.about, "status": status, "error": error})

    def _update(self, about: RunAbout) -> None:
        plain = _round_trip({**about, "updated": _now()})
        self.about = cast(RunAbout, {key: plain[key] for key in about})
        write_json(self.folder / "run.json", self.about)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is None:
            return
        if error is None:
            self.finish("partial")
        else:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            self.finish("interrupted" if stopped else "failed", error=f"{type(error).__name__}: {error}")


def is_of_model(run: Run, model: ModelAbout) -> bool:
    """Whether a run worked with these weights; True where it doesn't say, or `model` doesn't."""
    from shield.model_names import introduce, is_same

    then, now = run.about["model"], _with_values(model)
    one, other, values = then.get("sha256"), now.get("sha256"), then.get("values")
    if one is None or other is None or one == other:
        return True
    if values is None:
        return now.get("values") is not None
    introduce(one, values)
    return is_same(one, other)


def _with_values(model: ModelAbout) -> ModelAbout:
    """With what the model is known by (shield/model_names.py), where this process met it."""
    from shield.model_names import values_of

    values = model.get("values") or values_of(model.get("sha256") or "")
    return model if values is None else {**model, "values": values}


def _damage(about: Mapping[str, Any]) -> str | None:
    """What a run's description lacks of what every version wrote; None if it is whole."""
    kinds = {"kind": str, "status": str, "config": dict, "model": dict, "inputs": list, "resumed": list}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            return f"its {name} is {_short(about.get(name))}"
    if not all(isinstance(given, dict) and isinstance(given.get("sha256"), str) for given in about["inputs"]):
        return "an input has no sha256"
    return None


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which options differ, in words; empty if none does."""
    keys = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
    shown = [f"{key} was {_short(then.get(key))}, now {_short(now.get(key))}" for key in keys[:3]]
    return "; ".join(shown) + (f"; {len(keys) - 3} more" if len(keys) > 3 else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)


def _round_trip(value: Any) -> Any:
    """The value as it will read back from JSON, so that a tuple and a list count as equal."""
    return json.loads(_canonical(value))


def _plain(value: Any) -> Any:
    """What JSON can't write itself: paths, and numbers of numpy and torch."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} can't be written as JSON.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
