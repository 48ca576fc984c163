"""The training loop: that the subject stays, that a cut run ends the same, early stop, adapters, precision."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from probes.attacks import AdversarialEmbedding
from probes.errors import AuditError, MemoryFullError, TensorFileError, UnsupportedError
from probes.hardeners import HARDENERS, AdversarialFineTuning, CaptionFineTuning, NegativeGuidance
from probes.hardeners.adapters import Adapters
from probes.hardeners.training import FineTuning, fine_tune, hardened, restored, save_hardened
from probes.model.generate import encode_prompts
from probes.model.training_loss import training_loss
from probes.types import Goal, Memory, Pair, Subject
from tests.probes.exact import bits
from tests.tiny import tiny_sd

SCHEDULE = FineTuning(epochs=2, updates=1, lr=1e-3, batch=2, checkpoint_every=1)
ADVERSARIAL = AdversarialFineTuning(keep_batch=2, draws=2, attack=AdversarialEmbedding(steps=1, batch=1))
CAPTION = CaptionFineTuning(keep_batch=2, draws=2)
SMALL = {
    "adversarial_fine_tuning": ADVERSARIAL,
    "caption_fine_tuning": CAPTION,
    "negative_guidance": NegativeGuidance(steps=3),
}


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


def test_every_hardener_is_tried_here():
    assert set(SMALL) == set(HARDENERS)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", SMALL)
def test_the_subject_stays_and_the_weights_move(subject, works, tmp_path, name, rank):
    before, rng = bits(subject.denoiser), torch.random.get_rng_state()
    subject.denoiser.conv_in.bias.requires_grad_(False)
    tuned = fine_tune(subject, SMALL[name], *works, replace(SCHEDULE, rank=rank), tmp_path)
    assert bits(subject.denoiser) == before and torch.equal(torch.random.get_rng_state(), rng)
    assert not subject.denoiser.conv_in.bias.requires_grad and subject.denoiser.conv_out.bias.requires_grad
    subject.denoiser.conv_in.bias.requires_grad_(True)
    assert all(parameter.grad is None for parameter in subject.denoiser.parameters())
    assert not any(module._forward_hooks for module in subject.denoiser.modules())
    old, new = subject.denoiser.state_dict(), load_file(tuned.weights)
    moved = {path for path in old if not torch.equal(old[path], new[path])}
    if rank:
        assert moved and all(
            path.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for path in moved
        )
        assert tuned.parameters < 10_000
    else:
        assert moved and all("attn2" in path for path in moved) == (name == "negative_guidance")
    assert (tuned.rounds, tuned.stopped) == (4, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hardened.safetensors"]


@pytest.mark.parametrize("at, rank", [(1, 0), (3, 0), (3, 2)])
def test_a_cut_run_ends_with_the_same_weights(subject, works, tmp_path, at, rank):
    schedule = replace(SCHEDULE, rank=rank)
    whole = load_file(fine_tune(subject, ADVERSARIAL, *works, schedule, tmp_path / "whole").weights)

    def stop(done, total):
        assert total == 4
        if done == at:
            raise KeyboardInterrupt

    sha = bits(subject.denoiser)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(subject, ADVERSARIAL, *works, schedule, tmp_path / "cut", progress=stop)
    assert bits(subject.denoiser) == sha and not (tmp_path / "cut" / "hardened.safetensors").exists()
    rounds = []
    again = load_file(
        fine_tune(
            subject, ADVERSARIAL, *works, schedule, tmp_path / "cut", progress=lambda done, total: rounds.append(done)
        ).weights
    )
    assert set(again) == set(whole) and all(torch.equal(again[name], whole[name]) for name in whole)
    assert rounds == list(range(at, 5))  # the round that was cut after its step, before its checkpoint, is repeated


def test_the_check_sees_the_trained_model_after_each_epoch_and_ends_it(subject, works, tmp_path):
    seen = []

    def check(epoch):
        seen.append((epoch, bits(subject.denoiser)))
        return epoch == 2

    tuned = fine_tune(subject, CAPTION, *works, replace(SCHEDULE, epochs=5), tmp_path, check=check)
    assert [epoch for epoch, _ in seen] == [1, 2] and tuned.stopped and tuned.rounds == 4
    with hardened(subject, tuned.weights) as denoiser:
        assert bits(denoiser) == seen[1][1] != seen[0][1] != bits(tiny_sd().unet)
    again = fine_tune(subject, CAPTION, *works, replace(SCHEDULE, epochs=5), tmp_path, check=lambda epoch: 1 / 0)
    assert again == tuned


def test_a_half_precision_model_trains_in_single_and_stays(works, tmp_path):
    half = Subject(tiny_sd(), "tiny")
    half.denoiser.to(torch.bfloat16)
    before, dtypes = bits_of_half(half.denoiser), []
    tuned = fine_tune(
        half,
        CAPTION,
        *works,
        replace(SCHEDULE, lr=1e-5),
        tmp_path,
        check=lambda epoch: dtypes.append(half.dtype) or False,
    )
    assert bits_of_half(half.denoiser) == before and dtypes == [torch.bfloat16]
    weights = load_file(tuned.weights)
    assert all(value.dtype == torch.float32 for value in weights.values())
    # Steps far below bfloat16's resolution add up in float32 and survive the check.
    moved = (weights["conv_in.weight"] - half.denoiser.conv_in.weight.float()).abs().max()
    assert 1e-5 < moved < 1e-4
    with hardened(half, tuned.weights):
        assert half.dtype == torch.bfloat16
    assert bits_of_half(half.denoiser) == before


def bits_of_half(module):
    return {name: value.view(torch.int16).clone().numpy().tobytes() for name, value in module.state_dict().items()}


def test_a_checkpoint_of_something_else_is_refused(subject, works, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(subject, CAPTION, *works, SCHEDULE, tmp_path, progress=stop)
    with pytest.raises(AuditError, match="another model, other options"):
        fine_tune(subject, CAPTION, *works, replace(SCHEDULE, lr=1e-4), tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(TensorFileError, match="can't be read"):
        fine_tune(subject, CAPTION, *works, SCHEDULE, tmp_path)


@pytest.mark.parametrize("rank, lr", [(0, 3e-3), (4, 1e-2)])
def test_training_moves_the_trigger_towards_the_surrogate(subject, works, tmp_path, rank, lr):
    """The caption's loss on the surrogate falls, and so does that of the pairs."""
    memories, keep = works
    schedule = FineTuning(epochs=8, updates=2, lr=lr, batch=2, rank=rank)
    hardener = replace(CAPTION, draws=4, weight=1.0, preserve="pictures")
    weights = fine_tune(subject, hardener, memories, keep, schedule, tmp_path).weights

    def losses():
        def loss(pairs):
            with torch.no_grad():
                return (
                    training_loss(
                        subject,
                        torch.stack([p.latents for p in pairs]),
                        torch.stack([p.prompt_embeds for p in pairs]),
                        [torch.Generator().manual_seed(n) for n in range(len(pairs))],
                        64,
                    )
                    .mean()
                    .item()
                )

        return loss([Pair(m.surrogate, m.goal.prompt_embeds) for m in memories]), loss(keep)

    before = losses()
    with hardened(subject, weights):
        after = losses()
    assert after[0] < (0.99 if rank else 0.9) * before[0] and after[1] < before[1]


def test_fresh_triggers_are_pairs_of_the_current_weights(subject, works):
    memories = works[0][:2]
    lesson = ADVERSARIAL.lesson(subject, memories, lambda name: 5)
    assert [torch.equal(pair.latents, memory.surrogate) for pair, memory in zip(lesson, memories * 2, strict=True)]
    found = ADVERSARIAL.attack.search(subject, [replace(m.goal, seed=5) for m in memories])
    assert all(
        torch.equal(pair.prompt_embeds, one.prompt_embeds[1]) for pair, one in zip(lesson[2:], found, strict=True)
    )
    captions = CAPTION.lesson(subject, memories, lambda name: 5)
    assert [torch.equal(a.prompt_embeds, b.prompt_embeds) for a, b in zip(captions, lesson[:2], strict=True)]


@pytest.mark.parametrize("empty", [0.0, 1.0])
def test_what_is_preserved_by_hand(subject, works, empty):
    """Nothing at the start; beside another model the distance of the two predictions, of the empty prompt too."""
    keep, lesson = works[1][:2], [Pair(m.surrogate, m.goal.prompt_embeds) for m in works[0]]
    hardener = CaptionFineTuning(weight=0.0, keep_batch=2, draws=1, empty=empty)
    other = tiny_sd(seed=1).unet

    def loss(teacher):
        return hardener.loss(subject, teacher, lesson, keep, torch.Generator().manual_seed(4)).item()

    draw = torch.Generator().manual_seed(4)
    picked = torch.randperm(2, generator=draw).tolist()
    torch.rand(2, generator=draw)
    time, noise = torch.randint(0, 1000, (2,), generator=draw), torch.randn(2, 4, 8, 8, generator=draw)
    latents, embeds = (
        torch.stack(some) for some in zip(*((keep[n].latents, keep[n].prompt_embeds) for n in picked), strict=True)
    )
    embeds = encode_prompts(subject, ["", ""]) if empty else embeds
    noisy = subject.pipe.scheduler.add_noise(latents, noise, time)
    with torch.no_grad():
        moved = subject.denoiser(noisy, time, embeds).sample - other(noisy, time, embeds).sample
    assert loss(subject.denoiser) == 0.0
    assert loss(other) == pytest.approx(moved.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_target_of_negative_guidance_by_hand(works, prediction):
    """One step schedule: x_t is the noise itself, so the loss is a formula of three predictions."""
    subject = Subject(tiny_sd(prediction), "tiny")
    teacher = tiny_sd(prediction, seed=1).unet
    memories = works[0][:2]
    esd = NegativeGuidance(eta=2.0, steps=1)
    lesson = esd.lesson(subject, memories, lambda name: 0)
    loss = esd.loss(subject, teacher, lesson, [], torch.Generator().manual_seed(4))
    draw = torch.Generator().manual_seed(4)
    torch.randint(0, 1, (1,), generator=draw)
    noise = torch.randn(2, 4, 8, 8, generator=draw)
    captions = torch.stack([memory.goal.prompt_embeds for memory in memories])
    empty = encode_prompts(subject, ["", ""])
    with torch.no_grad():
        ours, cond, none = (
            unet(noise, 999, embeds).sample
            for unet, embeds in ((subject.denoiser, captions), (teacher, captions), (teacher, empty))
        )
    assert loss.item() == pytest.approx(((ours - (none - 2 * (cond - none))) ** 2).mean().item(), rel=1e-4)


def test_negative_guidance_draws_with_guidance_up_to_the_step(subject, works):
    """Against the pipeline's own latents after the same number of steps."""
    captions, empty = NegativeGuidance().lesson(subject, works[0][:1], lambda name: 0)
    seed = next(n for n in range(99) if int(torch.randint(0, 4, (1,), generator=torch.Generator().manual_seed(n))) == 2)
    latents, time = NegativeGuidance(steps=4)._drawn(subject, captions, empty, torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    torch.randint(0, 4, (1,), generator=draw)
    kept = []
    subject.pipe(
        prompt=["the cat"],
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="latent",
        latents=torch.randn(1, 4, 8, 8, generator=draw),
        callback_on_step_end=lambda pipe, step, now, values: kept.append(values["latents"].clone()) or {},
    )
    subject.pipe.scheduler.set_timesteps(4)
    assert torch.allclose(latents, kept[1], atol=1e-4) and time == subject.pipe.scheduler.timesteps[2]


def test_merged_adapters_answer_like_attached_ones():
    denoiser = tiny_sd().unet
    noise, embeds = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 16)
    adapters = Adapters(denoiser, 2)
    with torch.no_grad():
        plain = denoiser(noise, 5, embeds).sample
        with adapters.attached():
            assert torch.equal(denoiser(noise, 5, embeds).sample, plain), "they start as nothing"
            for matrix in adapters.parameters:
                matrix.add_(0.1)
            attached = denoiser(noise, 5, embeds).sample
        adapters.merge()
        merged = denoiser(noise, 5, embeds).sample
    assert torch.allclose(attached, merged, atol=1e-4) and not torch.allclose(plain, merged, atol=1e-2)
    with pytest.raises(UnsupportedError, match="no linear layer"):
        Adapters(denoiser, 2, "nothing")


def test_a_hardened_checkpoint_is_a_normal_one(subject, works, tmp_path):
    weights = fine_tune(subject, CAPTION, *works, SCHEDULE, tmp_path / "run").weights
    folder = save_hardened(subject, weights, tmp_path / "saved")
    with hardened(subject, weights) as denoiser:
        assert bits(StableDiffusionPipeline.from_pretrained(folder).unet) == bits(denoiser)
    with pytest.raises(AuditError, match="isn't empty"):
        save_hardened(subject, weights, folder)


def test_restored_after_an_exception(subject):
    sha = bits(subject.denoiser)
    with pytest.raises(KeyError), restored(subject.denoiser):
        subject.denoiser.half()
        with torch.no_grad():
            subject.denoiser.conv_in.weight.zero_()
        raise KeyError
    assert bits(subject.denoiser) == sha


def test_a_step_that_doesnt_fit_is_one_sentence(subject, works, tmp_path):
    class Greedy(CaptionFineTuning):
        def loss(self, *arguments):
            raise torch.OutOfMemoryError("CUDA out of memory")

    sha = bits(subject.denoiser)
    with pytest.raises(MemoryFullError, match="--together"):
        fine_tune(subject, Greedy(), *works, SCHEDULE, tmp_path)
    assert bits(subject.denoiser) == sha


def test_a_training_that_diverges_is_one_sentence_and_leaves_no_weights(subject, works, tmp_path):
    sha = bits(subject.denoiser)
    with pytest.raises(AuditError, match="diverged in round 1: its loss is nan.*--lr"):
        fine_tune(subject, CAPTION, *works, replace(SCHEDULE, lr=1e30, updates=3), tmp_path)
    assert bits(subject.denoiser) == sha and not (tmp_path / "hardened.safetensors").exists()


def test_nothing_to_remove_or_to_keep_is_refused(subject, works, tmp_path):
    for memories, keep in (([], works[1]), (works[0], [])):
        with pytest.raises(AuditError, match="memories and pairs to keep"):
            fine_tune(subject, CAPTION, memories, keep, SCHEDULE, tmp_path)
