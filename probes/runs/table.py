"""A run's records as one flat table: in memory, and as results.parquet beside records.jsonl when a scan is done."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from probes.errors import ProbeError
from probes.runs.folder import Run
from probes.runs.records import Record
from shield.errors import BadRequestError
from shield.extras import extras_named
from shield.protected.pictures import open_image

TEXT = ("id", "stage", "item", "kind", "memorization", "split", "model", "prompt", "picture", "unjudged")
WHOLE = ("rung", "exposures", "seed")
TRUTH = ("copied", "flagged")
# Of a scan with early exit: the decision on a prompt from the mean of its seeds.
EARLY = {"prompt_flagged": "bool_", "prompt_score": "float64"}
OURS = {*TEXT, *WHOLE, *TRUTH, *EARLY, "attack_steps"}
# Of a column whose values are all of one kind; of several kinds, text.
KINDS = ((bool, "bool_"), (int, "int64"), (float, "float64"))
_ROWS = 10_000


def refuse_without_pyarrow() -> None:
    """Raises MissingExtraError where results.parquet couldn't be written, before there is anything to write."""
    with extras_named():
        import pyarrow  # noqa: F401


def write_results(run: Run) -> Path:
    """Write all records but the reference pictures' own; each score is a column "score_<name>". Returns the path.

    Columns of the user's file keep their names; one that is called like a column of ours becomes "own_<name>". Reads
    the records twice and never holds them all. ProbeError if the table can't be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names, kinds = _columns(_kept(run))
    early = list(EARLY) if run.config.get("early_exit") else []
    fields = [(name, pa.string()) for name in TEXT] + [(name, pa.int64()) for name in WHOLE]
    fields += [(name, pa.bool_()) for name in TRUTH] + [(f"score_{name}", pa.float64()) for name in names]
    fields += [(name, getattr(pa, EARLY[name])()) for name in early]
    fields += [(own_name(name), getattr(pa, kind)()) for name, kind in kinds.items()]
    schema, path = pa.schema(fields), run.folder / "results.parquet"
    part = path.with_name("results.parquet.part")
    try:
        with parquet.ParquetWriter(part, schema) as writer:
            rows = (_flat(record, names, early, kinds) for record in _kept(run))
            while chunk := list(itertools.islice(rows, _ROWS)):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
        part.replace(path)
    except OSError as error:
        raise ProbeError(f"Can't write {path}: {error.strerror or error}. The records are in records.jsonl.") from error
    return path


class Table(list[dict[str, Any]]):
    """A run's records but those of the reference pictures, one flat row each; a score is a field "score_<name>".

    Attributes:
        folder: The run folder that the rows were read from.
    """

    def __init__(self, folder: Path) -> None:
        """Reads a run folder.

        Args:
            folder: A run folder.

        Raises:
            RunError: If it is none, or is damaged.
        """
        self.folder = folder
        kept = list(_kept(Run.open(folder)))
        names, kinds = _columns(kept)
        super().__init__({**_flat(one, names, [], kinds), "attack_steps": one.get("attack_steps")} for one in kept)

    def to_pandas(self) -> Any:
        """The rows as a pandas.DataFrame.

        Raises:
            BadRequestError: Without pandas, which is no dependency of ours.
        """
        try:
            import pandas
        except ImportError:
            raise BadRequestError("A data frame needs pandas, and it isn't there: pip install pandas.") from None
        return pandas.DataFrame(list(self))

    def images(self, **fields: Any) -> list[Image]:
        """Pictures of the rows with these values, in the rows' order; rows without a picture have none.

        Args:
            **fields: Values that a row needs: images(stage="attacked", attack_steps=10).
        """
        chosen = [row for row in self if all(row.get(name) == value for name, value in fields.items())]
        return [open_image(self.folder / row["picture"]) for row in chosen if row["picture"]]


def _kept(run: Run) -> itertools.filterfalse[Record]:
    return itertools.filterfalse(lambda record: record["stage"] == "work", run.records())


def own_name(column: str) -> str:
    """What a column of the user's file is called in the table."""
    return f"own_{column}" if column in OURS or column.startswith("score_") else column


def _columns(records: Iterable[Record]) -> tuple[list[str], dict[str, str]]:
    """The scores' names, and the user's own columns with the kind of their values as pyarrow calls it."""
    names: dict[str, None] = {}
    types: dict[str, set[type]] = {}
    for record in records:
        names.update(dict.fromkeys(record["scores"]))
        for column, value in record.get("columns", {}).items():
            types.setdefault(column, set()).add(type(value))
    kinds = {column: next((kind for one, kind in KINDS if found == {one}), "string") for column, found in types.items()}
    return list(names), kinds


def _flat(record: Record, names: list[str], early: list[str], kinds: dict[str, str]) -> dict[str, Any]:
    scores = {f"score_{name}": record["scores"].get(name) for name in names}
    # Half of a surrogate pair, as a broken prompt file may hold it, has no place in a table's UTF-8.
    held: Mapping[str, Any] = record
    texts = {name: _clean(held.get(name)) for name in TEXT}
    given = {column: record.get("columns", {}).get(column) for column in kinds}
    own = {own_name(name): _told(value, kinds[name]) for name, value in given.items()}
    return {**texts, **{name: held.get(name) for name in (*WHOLE, *TRUTH, *early)}, **scores, **own}


def _told(value: Any, kind: str) -> Any:
    return _clean(str(value)) if kind == "string" and value is not None else value


def _clean(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
