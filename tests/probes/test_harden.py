"""Hardening: the loss it takes, that the subject stays, that a cut run ends the same."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from probes.attacks import AdversarialEmbedding
from probes.attacks.adversarial_embedding import training_loss
from probes.errors import AuditError
from probes.generate import encode_prompts
from probes.harden import AdversarialFineTuning, Memory, Pair, harden, hardened, restored, save_hardened
from probes.types import Goal, Subject
from tests.probes.exact import bits
from tests.tiny import tiny_sd

OPTIONS = AdversarialFineTuning(epochs=2, updates=1, lr=1e-3, batch=2, keep_batch=2, draws=2, checkpoint_every=1,
                                attack=AdversarialEmbedding(steps=1, batch=1))


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "tiny")


@pytest.fixture(scope="module")
def works(subject):
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(6, 4, 8, 8, generator=draw)
    embeds = encode_prompts(subject, ["the cat", "red", "a thing", "one", "two", "three"])
    memories = [Memory(Goal(f"w{n}", latents[n], embeds[n], n), latents[n].flip(-1)) for n in range(3)]
    return memories, [Pair(latents[n], embeds[n]) for n in range(3, 6)]


def test_the_subject_stays_and_the_weights_move(subject, works, tmp_path):
    before = bits(subject.denoiser)
    subject.denoiser.conv_in.bias.requires_grad_(False)
    weights = harden(subject, *works, OPTIONS, tmp_path)
    assert bits(subject.denoiser) == before
    assert not subject.denoiser.conv_in.bias.requires_grad and subject.denoiser.conv_out.bias.requires_grad
    subject.denoiser.conv_in.bias.requires_grad_(True)
    assert all(parameter.grad is None for parameter in subject.denoiser.parameters())
    with hardened(subject, weights) as denoiser:
        assert bits(denoiser) != before
    assert bits(subject.denoiser) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hardened.safetensors"]


@pytest.mark.parametrize("at", [1, 3])
def test_a_cut_run_ends_with_the_same_weights(subject, works, tmp_path, at):
    whole = load_file(harden(subject, *works, OPTIONS, tmp_path / "whole"))

    def stop(done, total):
        assert total == 4
        if done == at:
            raise KeyboardInterrupt
    sha = bits(subject.denoiser)
    with pytest.raises(KeyboardInterrupt):
        harden(subject, *works, OPTIONS, tmp_path / "cut", stop)
    assert bits(subject.denoiser) == sha and not (tmp_path / "cut" / "hardened.safetensors").exists()
    rounds = []
    again = load_file(harden(subject, *works, OPTIONS, tmp_path / "cut", lambda done, total: rounds.append(done)))
    assert set(again) == set(whole) and all(torch.equal(again[name], whole[name]) for name in whole)
    assert rounds == list(range(at, 5))   # the round that was cut after its step, before its checkpoint, is repeated


def test_a_checkpoint_of_something_else_is_refused(subject, works, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        harden(subject, *works, OPTIONS, tmp_path, stop)
    with pytest.raises(AuditError, match="another model, other options"):
        harden(subject, *works, replace(OPTIONS, lr=1e-4), tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(AuditError, match="can't be read as a checkpoint"):
        harden(subject, *works, OPTIONS, tmp_path)


def test_training_moves_the_trigger_towards_the_surrogate(subject, works, tmp_path):
    """Without an attack the caption is the trigger: its loss on the surrogate falls, and so does that of the pairs."""
    memories, keep = works
    options = replace(OPTIONS, attack=None, epochs=8, updates=2, lr=3e-3, draws=4)
    weights = harden(subject, memories, keep, options, tmp_path)

    def losses():
        def loss(pairs):
            with torch.no_grad():
                return training_loss(subject, torch.stack([p.latents for p in pairs]),
                                     torch.stack([p.prompt_embeds for p in pairs]),
                                     [torch.Generator().manual_seed(n) for n in range(len(pairs))], 64).mean().item()
        return loss([Pair(m.surrogate, m.goal.prompt_embeds) for m in memories]), loss(keep)
    before = losses()
    with hardened(subject, weights):
        after = losses()
    assert after[0] < 0.9 * before[0] and after[1] < before[1]


def test_fresh_triggers_are_part_of_it(subject, works, tmp_path):
    with_attack = load_file(harden(subject, *works, OPTIONS, tmp_path / "a"))
    without = load_file(harden(subject, *works, replace(OPTIONS, attack=None), tmp_path / "b"))
    assert not torch.equal(with_attack["conv_in.weight"], without["conv_in.weight"])


def test_a_hardened_checkpoint_is_a_normal_one(subject, works, tmp_path):
    weights = harden(subject, *works, OPTIONS, tmp_path / "run")
    folder = save_hardened(subject, weights, tmp_path / "saved")
    with hardened(subject, weights) as denoiser:
        assert bits(StableDiffusionPipeline.from_pretrained(folder).unet) == bits(denoiser)
    with pytest.raises(AuditError, match="isn't empty"):
        save_hardened(subject, weights, folder)


def test_restored_after_an_exception(subject):
    sha = bits(subject.denoiser)
    with pytest.raises(KeyError), restored(subject.denoiser):
        with torch.no_grad():
            subject.denoiser.conv_in.weight.zero_()
        raise KeyError
    assert bits(subject.denoiser) == sha


def test_nothing_to_remove_or_to_keep_is_refused(subject, works, tmp_path):
    with pytest.raises(AuditError, match="there are 0 and 3"):
        harden(subject, [], works[1], OPTIONS, tmp_path)
