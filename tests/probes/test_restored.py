"""An exception at any denoiser call leaves the pipeline and every random state as they were, whatever was going on.

Every localizer, pruner, attack and hardener, a transplant and a test of traps runs once to count its calls of the
denoiser, then once for each of them with an exception there. tests/shield/test_restored.py does it for the shield.
"""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from probes.attacks import ATTACKS, AdversarialEmbedding, Completion, Inpainting, Noise, Paraphrase, PromptSearch
from probes.bench.transplant import transplanted
from probes.hardeners import HARDENERS, AdversarialFineTuning, CaptionFineTuning, NegativeGuidance
from probes.hardeners.training import FineTuning, fine_tune, hardened
from probes.localizers import LOCALIZERS, Curvature, FFNSubspace, RandomMask, ValueNeurons
from probes.model.generate import encode_prompts, first_steps, generate
from probes.pruners import PRUNERS, pruned
from probes.traps.folder import Trap
from probes.traps.trial import Measure
from probes.types import Goal, Memory, Pair, Subject
from tests.shield.calls import state
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture

PROMPTS = ["the cat", "a thing"]
SCHEDULE = FineTuning(epochs=2, updates=1, lr=1e-3, batch=2, checkpoint_every=1)
SHORT = AdversarialEmbedding(steps=2, batch=1)
LOCATE = {
    "ffn_subspace": FFNSubspace(k=0.1, tau=2, steps=3, batch_size=1),
    "value_neurons": ValueNeurons(negatives=("red", "other"), seeds=2),
    "curvature": Curvature(tau=2, steps=3, batch_size=1),
    "random_mask": RandomMask(density=0.1),
}
SEARCH = {
    "adversarial_embedding": AdversarialEmbedding(steps=2, batch=1, rows=1),
    "prompt_search": PromptSearch(steps=2, batch=1, tokens=3, rows=1),
    "paraphrase": Paraphrase(steps=2),
}
DRAW = {"completion": Completion(), "inpainting": Inpainting(), "noise": Noise()}
HARDEN = {
    "adversarial_fine_tuning": AdversarialFineTuning(keep_batch=1, draws=1, attack=SHORT),
    "caption_fine_tuning": CaptionFineTuning(keep_batch=1, draws=1),
    "negative_guidance": NegativeGuidance(steps=2),
}


class Inside(Exception):
    """Raised by the denoiser; nothing else raises it."""


def goals(subject):
    draw = torch.Generator().manual_seed(3)
    return [
        Goal(f"w{n}", torch.randn(4, 8, 8, generator=draw), encode_prompts(subject, [prompt])[0], n, prompt)
        for n, prompt in enumerate(PROMPTS)
    ]


def locate(name, subject, folder):
    LOCATE[name].locate(subject, PROMPTS, seed=1)


def search(name, subject, folder):
    SEARCH[name].search(subject, goals(subject), snapshots=(0,))


def draw(name, subject, folder):
    DRAW[name].draw(subject, [tiny_picture(1), tiny_picture(2)], [1, 2], 50, steps=3, guidance_scale=5.0)


def prune(name, subject, folder):
    with pruned(subject, RandomMask(density=0.2).locate(subject).mask, PRUNERS[name]()):
        first_steps(subject, PROMPTS, [1, 2], steps=3, guidance_scale=5.0, stop=2)


def harden(name, rank, subject, folder):
    memories = [Memory(goal, goal.latents.flip(-1)) for goal in goals(subject)]
    keep = [Pair(goal.latents.flip(-2), goal.prompt_embeds) for goal in goals(subject)]
    schedule = FineTuning(**{**vars(SCHEDULE), "rank": rank})
    tuned = fine_tune(subject, HARDEN[name], memories, keep, schedule, folder)
    with hardened(subject, tuned.weights):
        first_steps(subject, PROMPTS, [1, 2], steps=3, guidance_scale=5.0, stop=1)


def transplant(subject, folder):
    donor = copy.deepcopy(subject.denoiser)
    with torch.no_grad():
        donor.conv_in.weight.add_(1.0)
    with transplanted(subject.denoiser, donor, ""):
        generate(subject.pipe, PROMPTS, [1, 2], steps=2, guidance_scale=5.0)


def traps(subject, folder):
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "a.png")
    Measure(draws=2, attack=SHORT).losses(subject, [Trap("a", 1, "the cat", folder / "a.png")])


WORK = {
    **{f"localizer {name}": partial(locate, name) for name in LOCALIZERS},
    **{f"pruner {name}": partial(prune, name) for name in PRUNERS},
    **{f"attack {name}": partial(search, name) for name in SEARCH},
    **{f"attack {name}": partial(draw, name) for name in DRAW},
    **{f"hardener {name}, rank {rank}": partial(harden, name, rank) for name in HARDENERS for rank in (0, 2)},
    "transplant": transplant,
    "traps": traps,
}
CALLS_NOTHING = {"localizer random_mask", "attack paraphrase"}


def whole(subject):
    """Weights, hooks, processors, scheduler, flags, gradients and every random state, comparable with ==."""
    parts = [part for part in subject.pipe.components.values() if isinstance(part, torch.nn.Module)]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    return {
        **state(subject.pipe),
        "requires": [p.requires_grad for p in parameters],
        "dtypes": [p.dtype for p in parameters],
        "grads": [p.grad is not None for p in parameters],
        "bytes": [p.detach().numpy().tobytes() for p in parameters],
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "grad mode": torch.is_grad_enabled(),
        "bar": getattr(subject.pipe, "_progress_bar_config", None),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WORK)
def test_a_denoiser_that_fails_at_any_of_its_calls(name, tmp_path):
    subject, calls, limit = Subject(tiny_sd(), "tiny"), [], [10**9]
    subject.denoiser.conv_in.bias.requires_grad_(False)
    subject.denoiser.mid_block.train()

    def fail(module, args, kwargs):
        calls.append(1)
        if len(calls) > limit[0]:
            raise Inside

    handle = subject.denoiser.register_forward_pre_hook(fail, with_kwargs=True)
    (tmp_path / "whole").mkdir()
    WORK[name](subject, tmp_path / "whole")
    before, total = whole(subject), len(calls)
    assert (total == 0) == (name in CALLS_NOTHING)
    for limit[0] in range(total):
        calls.clear()
        folder = tmp_path / str(limit[0])
        folder.mkdir()
        with pytest.raises(Inside):
            WORK[name](subject, folder)
        after = whole(subject)
        assert [key for key in before if after[key] != before[key]] == [], f"after call {limit[0]} of {total}"
    handle.remove()
    print(f"\n{name}: an exception at each of {total} calls")


def test_every_entry_of_every_table_is_tried():
    assert (set(LOCATE), {*SEARCH, *DRAW}, set(HARDEN)) == (set(LOCALIZERS), set(ATTACKS), set(HARDENERS))
