"""Indirect descriptions of registry concepts: how many the screen by meaning finds, and which benign prompts it flags.

The descriptions (indirect_descriptions.toml) never name what they describe; "dev" chose how prompts are read, and
"heldout" is measured once. The limit is made from the calibration half of the benign prompts that ship, the benign
prompts that are flagged are counted in the test half.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from probes.metrics.statistics import wilson
from shield.benign.prompts import benign_prompts
from shield.model.text_encoders import MINILM, TextEncoder
from shield.protected.concepts import Concepts
from shield.protected.meaning import FPR, Space, calibrated_limit

DESCRIPTIONS = Path(__file__).with_name("indirect_descriptions.toml")


def measure(
    split: str,
    encoder: TextEncoder | str = MINILM,
    concepts: Concepts | None = None,
    prompts: int | None = None,
    fpr: float = FPR,
) -> dict[str, Any]:
    """Recall on one split's descriptions, and flagged benign prompts, by meaning alone and without the spelling screen.

    Args:
        split: "dev" or "heldout".
        encoder: An encoder, or its name as for Meaning.
        concepts: The registry; the shipped one by default.
        prompts: How many benign prompts of each half; all by default.
        fpr: What the limit is made for; with few prompts it stands for 1 / (prompts + 1) at best.
    """
    space = Space(concepts or Concepts.load(), encoder)
    limit = calibrated_limit(space, benign_prompts("calibration", prompts), max(fpr, 1 / ((prompts or 1000) - 1)))
    described = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))[split]
    said = {name: [mention.concept for mention in space.meant(text, limit.value)] for name, text in described.items()}
    benign = [prompt for prompt in benign_prompts("test", prompts) if not space.concepts.found(prompt)]
    flagged = [prompt for prompt in benign if space.similarity(prompt) > limit.value]
    return {
        "split": split,
        "encoder": space.encoder.source,
        "limit": limit.value,
        "recall": _share(sum(bool(found) for found in said.values()), len(said)),
        "named_right": _share(sum(name in found for name, found in said.items()), len(said)),
        "flagged": _share(len(flagged), len(benign)),
        "missed": [name for name, found in said.items() if not found],
        "flagged_prompts": flagged,
    }


def _share(count: int, of: int) -> dict[str, Any]:
    return {"share": count / of, "n": of, "interval": wilson(count, of)}
