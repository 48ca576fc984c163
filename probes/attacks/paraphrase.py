"""How far a caption may be distorted until it no longer brings its picture out: a ladder, with a paired test.

A model that has learned what words mean draws much the same from a light distortion of a caption; one that has the
sentence by heart doesn't. Cohen-Inger et al., "Forget What You Know about LLMs Evaluations" (C-BOD), 2025, distort
benchmark prompts by degrees and test the difference pairwise; Xie et al., "On Memorization of Large Language Models in
Logical Reasoning", 2024, arXiv 2410.23123, call what is right and falls under a light perturbation memorized. Ours
does that to pictures: level l of L distorts the share l / L of the caption's words, each level what the one before did
and more, and every level is compared with the caption on the same works and seeds.

Nothing is searched, so it costs no denoiser evaluations beyond the pictures. A rewrite by a language model would keep
the meaning better; these distortions need none and are the same every time.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from probes.attacks.adversarial_embedding import kept_steps
from probes.model.generate import encode_prompts
from probes.runs.progress import ProgressCallback
from probes.types import Goal, SearchResult, Subject

EXACT = 14  # works up to which every sign is tried
DRAWS = 20_000


@dataclass(frozen=True)
class Paraphrase:
    """Levels 0 (the caption) to ``steps`` of ``change``: words change places ("order"), are left out ("drop"), or have
    two letters swapped ("spelling"). Which words come first is decided by the goal's seed.
    """

    name: ClassVar[str] = "paraphrase"

    steps: int = 4
    change: str = "order"
    batch: int = 1
    rows: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1 or self.change not in CHANGES:
            raise ValueError(
                f"A ladder has 1 or more levels of {', '.join(CHANGES)}, not {self.steps} of {self.change!r}."
            )

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations for each goal."""
        return 0

    def search(
        self,
        subject: Subject,
        goals: Sequence[Goal],
        *,
        snapshots: Sequence[int] = (),
        progress: ProgressCallback | None = None,
    ) -> list[SearchResult]:
        """One SearchResult a goal, with the embedding and the words of every level in ``snapshots`` and of the last.

        ValueError for a goal without a prompt; UnsupportedError as encode_prompts says.
        """
        kept = kept_steps(snapshots, self.steps, "levels")
        found = []
        for done, goal in enumerate(goals, start=1):
            if not goal.prompt:
                raise ValueError(f"{goal.id} has no prompt to distort.")
            words = {level: distorted(goal.prompt, level / self.steps, self.change, goal.seed) for level in kept}
            embeds = dict(zip(kept, encode_prompts(subject, list(words.values())).cpu(), strict=True))
            found.append(SearchResult(goal.id, embeds, [], 0, words))
            if progress is not None:
                progress(done, len(goals))
        return found


def distorted(prompt: str, share: float, change: str, seed: int) -> str:
    """The prompt with this share of its words changed; the words that a smaller share changes, a larger one does too.

    A word at least for a share above 0 (two change places), and "drop" leaves one.
    """
    words = prompt.split()
    draw = random.Random(zlib.crc32(f"{seed} {prompt}".encode()))
    places = draw.sample(range(len(words)), len(words))
    least = 2 if change == "order" else 1
    count = min(len(words), max(least, round(share * len(words)))) if share > 0 else 0
    return " ".join(CHANGES[change](words, places[:count], draw))


def _reordered(words: list[str], places: list[int], draw: random.Random) -> list[str]:
    """The chosen words, two at least, each take the place of the next one chosen."""
    changed, chosen = list(words), sorted(places)
    for place, other in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        changed[other] = words[place]
    return changed


def _dropped(words: list[str], places: list[int], draw: random.Random) -> list[str]:
    gone = set(places[: len(words) - 1])
    return [word for place, word in enumerate(words) if place not in gone]


def _misspelled(words: list[str], places: list[int], draw: random.Random) -> list[str]:
    """Two neighboring letters of each chosen word are swapped; a letter alone is doubled."""
    changed = list(words)
    for place in places:
        word = words[place]
        at = draw.randrange(max(len(word) - 1, 1))
        changed[place] = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :] if len(word) > 1 else word * 2
    return changed


CHANGES: Mapping[str, Callable[[list[str], list[int], random.Random], list[str]]] = {
    "order": _reordered,
    "drop": _dropped,
    "spelling": _misspelled,
}


def ladder(records: Sequence[Mapping[str, Any]], stage: str = "attacked") -> list[dict[str, Any]]:
    """For each level above 0 of a stage's records: the rates of copies of caption and distortion, and how sure it is.

    ``p`` is that of paired_test over works. What couldn't be judged on either side of a pair is left out and counted.
    """
    judged: dict[int, dict[tuple[str, int], bool | None]] = {}
    for record in records:
        if record["stage"] == stage and record["attack_steps"] is not None:
            judged.setdefault(record["attack_steps"], {})[record["item"], record["seed"]] = record["copied"]
    rows, start = [], judged.pop(0, {})
    for level, found in sorted(judged.items()):
        shared = [key for key in start if key in found]
        pairs = {key: (start[key], found[key]) for key in shared if start[key] is not None and found[key] is not None}
        items = list(dict.fromkeys(item for item, _ in pairs))
        rates = np.array(
            [
                np.mean([[bool(a), bool(b)] for (item, _), (a, b) in pairs.items() if item == one], axis=0)
                for one in items
            ]
        ).reshape(-1, 2)
        rows.append(
            {
                "level": level,
                "works": len(items),
                "pairs": len(pairs),
                "unscored": len(shared) - len(pairs),
                "caption": float(rates[:, 0].mean()) if items else None,
                "distorted": float(rates[:, 1].mean()) if items else None,
                "p": paired_test(rates[:, 0], rates[:, 1]) if items else None,
            }
        )
    return rows


def paired_test(ones: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray, seed: int = 0) -> float:
    """One-sided p: how often the mean of ones - others is at least as high if each pair's sign were a coin's.

    Exact up to EXACT pairs that differ; above that by DRAWS random signs, and never 0.
    """
    gaps = np.asarray(ones, dtype=float) - np.asarray(others, dtype=float)
    gaps = gaps[gaps != 0]
    if not gaps.size:
        return 1.0
    sizes, observed = np.abs(gaps), gaps.sum() - 1e-12
    if gaps.size <= EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=gaps.size)))
        return float((signs @ sizes >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(DRAWS, gaps.size))
    return float((1 + (signs @ sizes >= observed).sum()) / (1 + DRAWS))


def format_ladder(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ladder for a terminal."""
    return [
        f"Level {row['level']}: nothing could be judged."
        if row["p"] is None
        else f"Level {row['level']}: the caption brings back {row['caption']:.0%}, its distortion "
        f"{row['distorted']:.0%} of {row['pairs']} pictures of {row['works']} works (paired, p = {row['p']:.3g})"
        for row in rows
    ]
