"""SDXL, SD3 and Flux with two pictures by heart: what a caption, pruning, a search and hardening make of that.

At this size a memory has no place of its own: pruning weakens it without hiding it (tests/planted.py). What the search
shows is therefore told against the same search on matched pictures and on the clean twin, at equal budget.
"""

from pathlib import Path

import pytest
import torch

from probes.attacks import AdversarialEmbedding
from probes.audit.layers import subspace_masks
from probes.hardeners import AdversarialFineTuning
from probes.hardeners.training import FineTuning, fine_tune, hardened
from probes.localizers import FFNSubspace
from probes.pruners import pruned
from probes.types import Goal, Memory, Pair, Subject
from tests.planted import MAKERS, OTHERS, distances, embeddings, ordinary, planted

pytestmark = pytest.mark.slow
FAR, GAP = 0.75, 0.2
SEARCH = AdversarialEmbedding(steps=25, batch=8)
every = pytest.mark.parametrize("name", MAKERS)


def started(goals: list[Goal]) -> torch.Tensor:
    return torch.stack([goal.prompt_embeds for goal in goals])


def searched(subject: Subject, goals: list[Goal]) -> list[float]:
    found = SEARCH.search(subject, goals)
    return distances(subject, goals, torch.stack([one.prompt_embeds[SEARCH.steps] for one in found]))


@every
def test_the_works_come_from_their_captions_on_the_planted_model_alone(name: str) -> None:
    given = planted(name)
    captions = started(given.works)
    back = max(distances(given.model, given.works, captions))
    assert back + GAP < min(distances(given.twin, given.works, captions))
    assert back + GAP < min(distances(given.model, given.works, captions.flip(0)))
    assert back + GAP < min(distances(given.model, given.controls, started(given.controls)))


@every
def test_a_search_brings_works_back_from_the_pruned_model_and_nothing_else(name: str) -> None:
    given = planted(name)
    captions = distances(given.model, given.works, started(given.works))
    masks = subspace_masks(given.model, FFNSubspace(k=0.5, tau=1), 7)(["cat", "thing"], started(given.works))
    mask = masks[0].union(masks[1])
    with pruned(given.model, mask):
        assert sum(distances(given.model, given.works, started(given.works))) > sum(captions)
        back = searched(given.model, given.works)
        controls = searched(given.model, given.controls)
    assert max(back) + GAP < min(*controls, *searched(given.twin, given.works))


@every
def test_hardening_removes_what_the_search_finds(name: str, tmp_path: Path) -> None:
    given = planted(name)
    memories = [Memory(work, control.latents) for work, control in zip(given.works, given.controls, strict=True)]
    others = embeddings(given.model, OTHERS)
    keep = [Pair(latents, embeds) for latents, embeds in zip(ordinary(), others, strict=True)]
    hardener = AdversarialFineTuning(
        keep_batch=2, draws=4, empty=0.0, weight=1.0, attack=AdversarialEmbedding(steps=20, batch=4)
    )
    schedule = FineTuning(epochs=4, updates=15, lr=2e-3, batch=2)
    tuned = fine_tune(given.model, hardener, memories, keep, schedule, tmp_path)
    with hardened(given.model, tuned.weights):
        assert min(distances(given.model, given.works, started(given.works))) > FAR
        assert min(searched(given.model, given.works)) > FAR
