"""Rewriters. To add one: write one file, add one line to REWRITERS.

They only propose. A policy asks them in its order, and a proposal counts when the prompt screen finds nothing in it and
the detectors pass what the denoiser predicts from it. When none counts within the budget of extra calls, the policy's
next mitigation has its turn (null_prompt: nothing of the request is left), and when none is left the picture is
blocked. The original prompt is never fallen back to: a rewriter that fails ends the call without a picture.
"""

from shield.rewriters.clause_drop import ClauseDrop
from shield.rewriters.concept_substitution import ConceptSubstitution
from shield.rewriters.generalization import Generalization
from shield.rewriters.language_model import LanguageModel
from shield.rewriters.token_attribution import TokenAttribution
from shield.types import Rewriter

REWRITERS: dict[str, type[Rewriter]] = {
    "clause_drop": ClauseDrop,
    "concept_substitution": ConceptSubstitution,
    "generalization": Generalization,
    "language_model": LanguageModel,
    "token_attribution": TokenAttribution,
}

__all__ = ["REWRITERS", "ClauseDrop", "ConceptSubstitution", "Generalization", "LanguageModel", "TokenAttribution"]
