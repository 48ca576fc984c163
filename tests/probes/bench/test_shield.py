"""The shield's table."""

import json
from pathlib import Path

from probes.bench.shield import table

STORED = Path(__file__).resolve().parents[3] / "docs" / "bench" / "first" / "shield.json"


def test_a_table_of_the_parts_that_were_drawn() -> None:
    """`--parts scenes` in a new folder has no works and no characters to show."""
    whole = json.loads(STORED.read_text(encoding="utf-8"))
    lines = table(whole).splitlines()
    part = table({"scenes": whole["scenes"]}).splitlines()
    assert [line for line in lines if line in part] == part and len(part) == 5 + len(whole["scenes"]) < len(lines)
