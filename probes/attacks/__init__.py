"""Attacks: bring back a picture that a defense should have removed. Add one: a file here, and a line in this table."""

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.attacks.completion import Completion
from probes.attacks.inpainting import Inpainting
from probes.attacks.noise import Noise
from probes.attacks.paraphrase import Paraphrase
from probes.attacks.prompt_search import PromptSearch
from probes.attacks.text_free import TextFree
from shield.errors import BadRequestError
from shield.method_table import MethodTable

AnySearch = AdversarialEmbedding | PromptSearch | Paraphrase
AnyAttack = AnySearch | TextFree

SHIPPED: dict[str, type[AnySearch] | type[TextFree]] = {
    AdversarialEmbedding.name: AdversarialEmbedding,
    PromptSearch.name: PromptSearch,
    Paraphrase.name: Paraphrase,
    Completion.name: Completion,
    Inpainting.name: Inpainting,
    Noise.name: Noise,
}

ATTACKS = MethodTable("diffusion_shield.attacks", SHIPPED, needs=("steps", "batch", "rows", "evaluations", "search"))
"""Of other distributions searches alone: what they find is drawn by the pipeline itself."""


def searching(attack: AnyAttack) -> AnySearch:
    """The attack, where what it finds is needed. BadRequestError for a probe that searches nothing."""
    if isinstance(attack, TextFree):
        raise BadRequestError(
            f"{attack.name} searches nothing; an attack is needed that does, as adversarial_embedding."
        )
    return attack


__all__ = [
    "ATTACKS",
    "AdversarialEmbedding",
    "AnyAttack",
    "AnySearch",
    "Completion",
    "Inpainting",
    "Noise",
    "Paraphrase",
    "PromptSearch",
    "TextFree",
    "searching",
]
