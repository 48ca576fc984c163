"""Gates for a release: "copies<=0.02" holds if the upper bound of the interval does. A result as JUnit XML for CI.

The upper bound, because a share that a run was too small to bound is no pass; nor is one that couldn't be judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from probes.errors import RunError
from probes.metrics.statistics import rate_interval
from probes.report.figures import RateRow
from probes.report.sentences import percent
from probes.report.summary import Measured
from probes.runs.records import Record
from shield.errors import BadRequestError

STAGE_OF = {
    "copies": "before",
    "shielded": "shielded",
    "pruned": "pruned",
    "hardened": "hardened",
    "attacked": "attacked",
    "hardened-attacked": "hardened_attacked",
}
NAMES = (*STAGE_OF, "flagged")
_GATE = re.compile(r"\s*([a-z-]+)\s*(<=|<)\s*(\d*\.?\d+)\s*")


@dataclass(frozen=True)
class Gate:
    """One limit for the upper bound of a share."""

    name: str
    limit: float
    strict: bool = False

    @classmethod
    def parsed(cls, text: str) -> Gate:
        """From text like "copies<=0.02". BadRequestError for anything else."""
        read = _GATE.fullmatch(text)
        if read is None or read[1] not in NAMES or not 0 <= float(read[3]) <= 1:
            raise BadRequestError(
                f"A gate is a name, <= or <, and a share from 0 to 1, as in copies<=0.02; not {text!r}. "
                f"Names are {', '.join(NAMES)}."
            )
        return cls(read[1], float(read[3]), read[2] == "<")

    def __str__(self) -> str:
        return f"{self.name}{'<' if self.strict else '<='}{self.limit:g}"


@dataclass(frozen=True)
class Checked:
    """A gate's result."""

    gate: Gate
    held: bool
    said: str


def check_gates(texts: Sequence[str], figures: Measured, records: Sequence[Record]) -> list[Checked]:
    """Each gate against a run's figures."""
    return [_checked(Gate.parsed(text), figures, records) for text in texts]


def _checked(gate: Gate, figures: Measured, records: Sequence[Record]) -> Checked:
    rows = _rows(gate.name, figures, records)
    judged = [row for row in rows if row["rate"] is not None]
    if not judged:
        return Checked(gate, False, f"{gate}: missed, because nothing of it was judged in this run.")
    row = max(judged, key=lambda one: one["high"])
    held = row["high"] < gate.limit if gate.strict else row["high"] <= gate.limit
    return Checked(
        gate,
        held,
        f"{gate}: {'held' if held else 'missed'}, the upper bound is {row['high']:.4g} ({row['copied']} of "
        f"{row['n']}, {percent(row['rate'])}%, {row['unscored']} not judged).",
    )


def _rows(name: str, figures: Measured, records: Sequence[Record]) -> list[RateRow]:
    """Rows of works and prompts that a gate is about; of an attack those at its largest number of steps."""
    if name == "flagged":
        scored = [record for record in records if record["stage"] in ("scan", "before") and "flagged" in record]
        rate = rate_interval([r["flagged"] for r in scored], [r["item"] for r in scored])
        flagged = sum(record["flagged"] is True for record in scored)
        known = rate.n > 0
        return [
            {
                "n": rate.n,
                "copied": flagged,
                "unscored": rate.unscored,
                "rate": rate.value if known else None,
                "low": rate.low if known else None,
                "high": rate.high if known else None,
            }
        ]
    stage = STAGE_OF[name]
    if name.endswith("attacked"):
        curve = [row for row in figures["curve"] if row["stage"] == stage]
        return [row for row in curve if row["attack_steps"] == max(one["attack_steps"] for one in curve)]
    return [row for row in figures["rows"] if row["stage"] == stage and row["group"] in ("members", "prompts")]


def write_junit(path: Path, checked: Sequence[Checked], run: str) -> None:
    """The results as JUnit XML, one test case for each gate. RunError if it can't be written."""
    missed = sum(not one.held for one in checked)
    suite = ElementTree.Element("testsuite", name="diffshield", tests=str(len(checked)), failures=str(missed))
    for one in checked:
        case = ElementTree.SubElement(suite, "testcase", classname=run, name=str(one.gate))
        if one.held:
            ElementTree.SubElement(case, "system-out").text = one.said
        else:
            ElementTree.SubElement(case, "failure", message=one.said)
    try:
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise RunError(f"Can't write {path}: {error.strerror or error}.") from error
