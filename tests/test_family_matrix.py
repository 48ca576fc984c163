"""The matrix of docs/families.md, family by stage: a cell says yes where a test tries it, and the test is named."""

import importlib
import re
from pathlib import Path

from shield.model.families import FAMILIES
from tests.probes import test_every_family as tried
from tests.probes import test_families
from tests.probes.attacks import test_text_free
from tests.shield import test_every_family

ROOT = Path(__file__).parents[1]
NAMES = [family.name for family in FAMILIES]
SEARCHED = {"sd", *test_families.MAKERS}  # of SD every test of an attack is
TRIED = {
    "shield": {way.split("_")[0] for way in test_every_family.WAYS},
    "scan": set(tried.SCORED),
    "localize, prune": set(tried.LOCATED),
    "attack by embedding, locality, harden": SEARCHED,
    "attack without text": set(test_text_free.MAKERS),
}


def table():
    """Column -> family -> cell."""
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8").partition("## Stages")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head, _, *body = rows
    return {column: {row[0].strip("`"): row[place] for row in body} for place, column in enumerate(head) if place}


def test_every_cell_is_what_its_tests_try():
    found = table()
    assert list(found) == list(TRIED)
    for stage, families in TRIED.items():
        assert found[stage] == {name: "yes" if name in families else "no" for name in NAMES}, stage


def test_every_named_test_exists():
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8").partition("## Stages")[2]
    named = re.findall(r"`(tests/[\w/]+)\.py::(\w+)`", text)
    assert len(named) >= len(TRIED)
    for module, function in named:
        assert hasattr(importlib.import_module(module.replace("/", ".")), function), function
