"""Rewriters. To add one: write one file, add one line to REWRITERS."""

from shield.rewriters.clause_drop import ClauseDrop
from shield.rewriters.concept_substitution import ConceptSubstitution
from shield.types import Rewriter

REWRITERS: dict[str, type[Rewriter]] = {
    "clause_drop": ClauseDrop,
    "concept_substitution": ConceptSubstitution,
}

__all__ = ["REWRITERS", "ClauseDrop", "ConceptSubstitution"]
