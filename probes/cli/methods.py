"""diffshield list: parsing and printing only."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from probes.cli.options import Json, printed

_PAPER = re.compile(r'("[^"]{15,}")[^"]{0,30}?\b20\d\d\b(?:[^"]{0,30}?(arXiv \d{4}\.\d{4,5}))?')
_NUMBER = re.compile(r"(arXiv \d{4}\.\d{4,5})")


class Kind(StrEnum):
    """What can be listed."""

    detectors = "detectors"
    mitigations = "mitigations"
    attacks = "attacks"
    localizers = "localizers"
    families = "families"


def register(app: typer.Typer) -> None:
    """Adds this verb to the command line."""
    app.command(name="list")(list_methods)


def list_methods(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)], as_json: Json = False
) -> None:
    """Methods by name, those of other distributions too, or the families of pipelines that are known.

    Example: diffshield list detectors
    """
    found = _families() if kind is Kind.families else _methods(kind)
    wide = max(len(name) for name in found)
    lines = []
    for name, about in found.items():
        lines.append(f"{name:{wide}}  {about['about']}")
        lines += [f"{'':{wide}}  {about['source']}"] if about.get("source") else []
    printed({kind.value: found}, as_json, "\n".join(lines))


def _methods(kind: Kind) -> dict[str, dict[str, Any]]:
    from probes.attacks import ATTACKS
    from probes.localizers import LOCALIZERS
    from shield.detectors import DETECTORS
    from shield.mitigations import MITIGATIONS

    tables: dict[Kind, Any] = {
        Kind.detectors: DETECTORS,
        Kind.mitigations: MITIGATIONS,
        Kind.attacks: ATTACKS,
        Kind.localizers: LOCALIZERS,
    }
    return {
        name: {"about": _about(one), "source": _source(one), "class": _place(one)} for name, one in tables[kind].items()
    }


def _families() -> dict[str, dict[str, Any]]:
    from shield.model.families import FAMILIES

    return {
        family.name: {"about": ", ".join(family.pipelines), "pipelines": list(family.pipelines)} for family in FAMILIES
    }


def _about(method: type) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((method.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".") + "." if text else ""


def _source(method: type) -> str | None:
    """The first paper that the module of a method, or of a class it comes from, names; None without one."""
    for one in method.__mro__:
        text = " ".join(_module_doc(one).split())
        if found := _PAPER.search(text) or _NUMBER.search(text):
            cited = ", ".join(part for part in found.groups() if part)
            return f"not in the literature; builds on {cited}" if "Not in the literature" in text else cited
    return None


def _module_doc(method: type) -> str:
    return sys.modules[method.__module__].__doc__ or ""


def _place(method: type) -> str:
    return f"{method.__module__}:{method.__qualname__}"
