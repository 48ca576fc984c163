import pytest
import torch

from shield.errors import TraceError
from shield.hooks.recording import recorded
from shield.model.conditioning import Conditioning, encoded, null_conditioning, read, written
from shield.model.families import FAMILIES, family_of

SD, SDXL, SD3, FLUX = FAMILIES[:4]


def call(value):
    return {
        "sample": torch.zeros(4, 1),
        "encoder_hidden_states": torch.full((4, 2, 3), value),
        "added_cond_kwargs": {"text_embeds": torch.full((4, 5), value), "time_ids": torch.ones(4, 6)},
    }


def test_read_takes_the_conditional_rows():
    named = call(0.0)
    named["encoder_hidden_states"][3] = 7.0
    assert read(SD, named, 2, 2).embeds[:, 0, 0].tolist() == [0.0, 7.0]
    assert read(SD, named, 2, 2).pooled is None
    assert read(SDXL, named, 2, 2).pooled.shape == (2, 5)


def test_written_replaces_rows_in_tokens_and_pooled_and_nothing_in_place():
    named = call(0.0)
    changed = written(SDXL, named, Conditioning(torch.ones(1, 2, 3), torch.ones(1, 5)), [3])
    assert changed["encoder_hidden_states"][:, 0, 0].tolist() == [0, 0, 0, 1]
    assert changed["added_cond_kwargs"]["text_embeds"][:, 0].tolist() == [0, 0, 0, 1]
    assert changed["added_cond_kwargs"]["time_ids"] is named["added_cond_kwargs"]["time_ids"]
    assert named["encoder_hidden_states"].sum() == 0 and named["added_cond_kwargs"]["text_embeds"].sum() == 0


def test_written_keeps_the_calls_dtype_and_refuses_other_shapes():
    named = call(0.0)
    assert (
        written(SD, named, Conditioning(torch.ones(1, 2, 3, dtype=torch.float64)), [0])["encoder_hidden_states"].dtype
        == torch.float32
    )
    with pytest.raises(TraceError, match="don't fit"):
        written(SD, named, Conditioning(torch.ones(1, 2, 9)), [0])
    with pytest.raises(TraceError, match="don't mix"):
        Conditioning(torch.ones(1, 2, 9)).mixed(Conditioning(torch.ones(1, 2, 3)), 0.5)


def test_another_number_of_tokens_is_fitted_by_repeating():
    one = Conditioning(torch.tensor([[[1.0], [2.0]]]))
    assert one.fitted(5).embeds.flatten().tolist() == [1, 2, 1, 2, 1]
    assert one.fitted(1).embeds.flatten().tolist() == [1] and one.fitted(2) is one
    named = {"encoder_hidden_states": torch.zeros(2, 4, 1)}
    assert written(SD, named, one, [1])["encoder_hidden_states"][1].flatten().tolist() == [1, 2, 1, 2]


def test_a_sequence_repeated_whole_predicts_the_same(pipe):
    one = encoded(pipe, ["the cat"])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        short, long = (pipe.unet(x, 500, c.embeds).sample for c in (one, one.fitted(32)))
    assert torch.allclose(short, long, atol=1e-5)


def test_repeated_rows_and_mixed():
    one = Conditioning(torch.ones(1, 2, 3), torch.zeros(1, 5))
    assert one.repeated(3).embeds.shape == (3, 2, 3) and one.repeated(3).pooled.shape == (3, 5)
    assert one.mixed(Conditioning(torch.zeros(1, 2, 3), torch.ones(1, 5)), 0.25).embeds.unique().tolist() == [0.75]


def test_encoded_is_what_the_pipeline_gives_its_denoiser(pipe):
    seen = {}
    handle = pipe.unet.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with recorded(pipe, {"noise_cond"}, first_k=1, stop=True):
        pipe(["the cat", "a dog"], guidance_scale=5.0)
    handle.remove()
    assert torch.equal(seen["encoder_hidden_states"][2:], encoded(pipe, ["the cat", "a dog"]).embeds)
    assert torch.equal(seen["encoder_hidden_states"][:1], null_conditioning(pipe).embeds)
    assert family_of(pipe) is SD
