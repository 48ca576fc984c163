"""Attacks: bring back a picture that a defense should have removed. Add one: a file here, and a line in this table."""

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.attacks.paraphrase import Paraphrase
from probes.attacks.prompt_search import PromptSearch
from shield.method_table import MethodTable

AnyAttack = AdversarialEmbedding | PromptSearch | Paraphrase

SHIPPED: dict[str, type[AnyAttack]] = {
    AdversarialEmbedding.name: AdversarialEmbedding,
    PromptSearch.name: PromptSearch,
    Paraphrase.name: Paraphrase,
}

ATTACKS = MethodTable("diffusion_shield.attacks", SHIPPED, needs=("steps", "batch", "rows", "evaluations", "search"))

__all__ = ["ATTACKS", "AdversarialEmbedding", "AnyAttack", "Paraphrase", "PromptSearch"]
