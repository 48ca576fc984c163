"""Indirect descriptions of registry concepts: how many the screen by meaning finds, and which benign prompts it flags.

The descriptions (indirect_descriptions.toml) never name what they describe; "dev" chose how prompts are read, and
"heldout" is measured once. The limit is made from the calibration half of the benign prompts that ship, the benign
prompts that are flagged are counted in the test half.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
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


def bench_meaning(out: Path, encoder: str = MINILM) -> dict[str, Any]:
    """`measure` on both splits, written to meaning.json in `out`."""
    found = {split: measure(split, encoder) for split in ("dev", "heldout")}
    out.mkdir(parents=True, exist_ok=True)
    (out / "meaning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line for each split."""
    lines = ["| descriptions | found | as the right concept | benign prompts flagged |", "|---|---|---|---|"]
    for split, figures in found.items():
        cells = [_told(figures[part]) for part in ("recall", "named_right", "flagged")]
        lines.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{round(rate['share'] * rate['n'])} of {rate['n']} [{low:.1%}, {high:.1%}]"


def _share(count: int, of: int) -> dict[str, Any]:
    return {"share": count / of, "n": of, "interval": wilson(count, of)}
