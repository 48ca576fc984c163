"""Hardeners on SDXL, SD3 and Flux: full weights, adapters, what each trains, and that it learns the lesson."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from probes.hardeners.training import FineTuning, fine_tune, hardened
from probes.model.generate import encode_prompts
from probes.model.training_loss import training_loss
from probes.types import Goal, Memory, Pair, Subject
from tests.probes.exact import bits
from tests.probes.hardeners.test_fine_tuning import SMALL
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

MAKERS = {"sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
TEXT = {"sdxl": "attn2.", "sd3": "add", "flux": "add"}  # what reads the text, which is all that ESD trains


@cache
def subject_of(name: str) -> Subject:
    pipe = MAKERS[name]()
    pipe.default_sample_size = 8
    return Subject(pipe, name)


def works_of(subject: Subject) -> tuple[list[Memory], list[Pair]]:
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    embeds = encode_prompts(subject, ["the cat", "red", "one", "two"])
    memories = [Memory(Goal(f"w{n}", latents[n], embeds[n], n), latents[n].flip(-1)) for n in range(2)]
    return memories, [Pair(latents[n], embeds[n]) for n in (2, 3)]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("name", MAKERS)
def test_the_subject_stays_and_its_own_layers_move(name: str, method: str, rank: int, tmp_path: Path) -> None:
    subject = subject_of(name)
    before = bits(subject.denoiser)
    schedule = FineTuning(epochs=1, updates=1, lr=1e-3, batch=2, rank=rank)
    tuned = fine_tune(subject, SMALL[method], *works_of(subject), schedule, tmp_path)
    assert bits(subject.denoiser) == before
    old = subject.denoiser.state_dict()
    moved = {path for path, weight in load_file(tuned.weights).items() if not torch.equal(weight, old[path])}
    assert moved
    if rank:
        assert all(".attn" in path and path.endswith(".weight") for path in moved)
        assert tuned.parameters < sum(weight.numel() for weight in old.values()) / 2
    elif method == "negative_guidance":
        assert all(TEXT[name] in path for path in moved)
    else:
        assert any("attn" not in path for path in moved)


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("name", MAKERS)
def test_a_caption_learns_its_surrogate(name: str, rank: int, tmp_path: Path) -> None:
    subject = subject_of(name)
    memories, keep = works_of(subject)
    schedule = FineTuning(epochs=1, updates=8, lr=3e-3, batch=2, rank=rank)
    tuned = fine_tune(subject, SMALL["caption_fine_tuning"], memories, keep, schedule, tmp_path)
    surrogates = torch.stack([memory.surrogate for memory in memories])
    captions = torch.stack([memory.goal.prompt_embeds for memory in memories])

    def loss() -> float:
        draws = [torch.Generator().manual_seed(7) for _ in memories]
        with torch.no_grad():
            return float(training_loss(subject, surrogates, captions, draws, 16).mean())

    before = loss()
    with hardened(subject, tuned.weights):
        assert loss() < before
