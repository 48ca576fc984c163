"""Hardeners: train a memory out of the weights. Add one: a file here, and a line in this table."""

from probes.hardeners.adversarial_fine_tuning import AdversarialFineTuning
from probes.hardeners.caption_fine_tuning import CaptionFineTuning
from probes.hardeners.negative_guidance import NegativeGuidance
from probes.types import Hardener

HARDENERS: dict[str, type[Hardener]] = {
    AdversarialFineTuning.name: AdversarialFineTuning,
    CaptionFineTuning.name: CaptionFineTuning,
    NegativeGuidance.name: NegativeGuidance,
}

__all__ = ["HARDENERS", "AdversarialFineTuning", "CaptionFineTuning", "NegativeGuidance"]
