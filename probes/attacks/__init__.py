"""Attacks: bring back a picture that a defense should have removed. Add one: a file here, and a line in this table."""

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.attacks.prompt_search import PromptSearch

AnyAttack = AdversarialEmbedding | PromptSearch

ATTACKS: dict[str, type[AnyAttack]] = {
    AdversarialEmbedding.name: AdversarialEmbedding,
    PromptSearch.name: PromptSearch,
}

__all__ = ["ATTACKS", "AdversarialEmbedding", "AnyAttack", "PromptSearch"]
