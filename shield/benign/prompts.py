"""Benign prompts that ship: what people ask for when they ask for nothing protected. CC0.

About 1,200, of six kinds, 352 of them written by hand (written.toml) and the others drawn from lists (generated.toml,
shield/benign/grammar.py). A checkpoint may have memorized any picture, but hardly the answer to one of these:
they describe, and quote no caption. They stand for a user's prompts as far as those look like them; whoever knows
better calibrates with prompts of their own.

A prompt's sha256 says whether it is for calibration or for testing what was calibrated, so that a prompt that is added
or changed moves no other one.
"""

import tomllib
from collections import defaultdict
from functools import cache
from hashlib import sha256
from pathlib import Path

from shield.errors import BadRequestError

HALVES = ("calibration", "test")
FILES = ("written", "generated")
_FOLDER = Path(__file__).parent


def benign_prompts(half: str = "calibration", n: int | None = None) -> list[str]:
    """Benign prompts of one half, the same ones at every call.

    Args:
        half: "calibration" or "test"; they share no prompt.
        n: How many; all of the half by default.

    Returns:
        The first `n` in an order in which every beginning holds each kind, and the written and the generated prompts,
        in about the shares that they have in the half.

    Raises:
        BadRequestError: There is no such half, or it has fewer prompts.
    """
    if half not in HALVES:
        raise BadRequestError(f"Benign prompts have the halves {' and '.join(HALVES)}; {half!r} was given.")
    ordered = _ordered(half)
    if n is not None and not 0 < n <= len(ordered):
        raise BadRequestError(f"From 1 to {len(ordered)} benign prompts ship for {half}; {n} were asked for.")
    return list(ordered[:n])


def half_of(prompt: str) -> str:
    """Which half a prompt belongs to, by its sha256."""
    return HALVES[sha256(prompt.encode()).digest()[0] % 2]


@cache
def prompts_by_kind() -> dict[tuple[str, str], tuple[str, ...]]:
    """All benign prompts by (file, kind): file is "written" or "generated", kind for instance "portrait"."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for file in FILES:
        kinds = tomllib.loads((_FOLDER / f"{file}.toml").read_text(encoding="utf-8"))
        found |= {(file, kind): tuple(text.splitlines()) for kind, text in kinds.items()}
    return found


def digest_of(prompts: list[str]) -> str:
    """Hexadecimal sha256 of a list of prompts, for a threshold's provenance."""
    return sha256("\n".join(prompts).encode()).hexdigest()


@cache
def _ordered(half: str) -> tuple[str, ...]:
    """The half's prompts, each stratum spread evenly over the whole."""
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stratum, prompts in prompts_by_kind().items():
        strata[stratum] += [prompt for prompt in prompts if half_of(prompt) == half]
    placed = []
    for stratum_prompts in strata.values():
        shuffled = sorted(stratum_prompts, key=lambda prompt: sha256(prompt.encode()).digest()[1:])
        placed += [((place + 0.5) / len(shuffled), prompt) for place, prompt in enumerate(shuffled)]
    return tuple(prompt for _, prompt in sorted(placed))
