"""What the benches share: what an earlier result file holds, and how shares and intervals are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]


def stored(file: Path) -> dict[str, Any]:
    """What a result file holds, also half of a result; nothing where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def finished(file: Path) -> dict[str, Any]:
    """A whole result; nothing where there is none, or half of one."""
    found = stored(file)
    return {} if found.get("unfinished") else found


def earlier(file: Path, setting: Figures) -> dict[str, Any]:
    """The result file, if there is one and it was measured in this setting; else nothing."""
    found = stored(file)
    return found if all(found.get(key) == value for key, value in setting.items()) else {}


def share(row: Figures, key: str = "share") -> str:
    """A rate with its interval, in percent."""
    return f"{row[key]:.0%} [{row['low']:.0%}, {row['high']:.0%}]"


def share_by_both(row: Figures, key: str = "share") -> str:
    """A rate with its interval, and what SSCD says of the same pictures where it judged."""
    found = row.get("by_sscd")
    return share(row, key) + ("" if found is None else f"; SSCD {found['share']:.0%}")


def interval(row: Figures, key: str = "value", digits: int = 3) -> str:
    """A figure with its interval."""
    return f"{row[key]:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
