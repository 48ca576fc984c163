"""Rewriters. To add one: write one file, add one line to REWRITERS."""

from shield.rewriters.clause_drop import ClauseDrop
from shield.types import Rewriter

REWRITERS: dict[str, type[Rewriter]] = {
    "clause_drop": ClauseDrop,
}

__all__ = ["REWRITERS", "ClauseDrop"]
