"""Attacks: bring back a picture that a defense should have removed. Add one: a file here, and a line in this table."""

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.types import Attack

ATTACKS: dict[str, type[Attack]] = {
    AdversarialEmbedding.name: AdversarialEmbedding,
}

__all__ = ["ATTACKS", "AdversarialEmbedding"]
