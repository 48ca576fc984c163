import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from shield import Gallery, Shield
from shield.protected.concepts import Concept, Concepts
from shield.reasons import Reason
from shield.runtime.blind_spots import BlindSpots, is_noise
from shield.runtime.policy import preset
from tests.shield.calls import noises, options, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture, tiny_sdxl, tiny_variant

SCREEN = Concepts([Concept("Bolto", substitute="a dog")])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 4, 8, 8), (2, 4, 64, 64), (2, 64, 16)])
def test_plain_noise_is_plain_noise(shape):
    assert all(is_noise(noise(*shape, seed=seed)) for seed in range(40))


def test_what_holds_a_picture_is_none():
    """As little as a fifth of a smooth picture among the noise of a 64 x 64 latent."""
    y, x = torch.meshgrid(torch.linspace(-2, 2, 64), torch.linspace(-2, 2, 64), indexing="ij")
    picture = torch.stack([x, y, x * y, x - y])[None]
    assert not is_noise((1 - 0.2**2) ** 0.5 * noise(1, 4, 64, 64) + 0.2 * picture)
    assert not is_noise(torch.cat([noise(1, 4, 64, 64), picture]))  # one row of a batch
    for odd in (1.2 * noise(1, 4, 64, 64), noise(1, 4, 64, 64) + 0.2, noise(1, 4, 64, 64) * float("nan")):
        assert not is_noise(odd)


def verdicts(pipe, call, policy, gallery=None, screen=None):
    shield = Shield(pipe, policy, gallery, screen, thresholds=thresholds(pipe, 1e9))
    output = shield(**call)
    return shield, output


def assert_closed_in_strict_and_shown_in_balanced(pipe, call, why, bare_call=None, **more):
    """`call` and `bare_call` make the arguments afresh; the picture is the bare pipeline's, to the bit, or gray."""
    _, strict = verdicts(pipe, call(), "strict", **more)
    for verdict in strict.verdicts:
        assert (verdict.status, verdict.scored) == ("blocked", False) and why in verdict.reasons
    assert (strict.images == 0.5).all()
    _, shown = verdicts(pipe, call(), "balanced", **more)
    for verdict in shown.verdicts:
        assert (verdict.status, verdict.scored) == ("passed", False) and why in verdict.reasons
    assert np.array_equal(shown.images, pipe(**(bare_call or call)()).images)


@pytest.mark.parametrize("screen", [SCREEN, None])
def test_a_prompt_that_came_as_embeddings(pipe, screen):
    """Without a screen too: a text can be looked into later, and what embeddings were searched for can't."""
    with torch.no_grad():
        embeds = pipe.encode_prompt(["bolto"], "cpu", 1, False)[0]
    assert_closed_in_strict_and_shown_in_balanced(
        pipe, lambda: options(1, prompt_embeds=embeds), Reason("prompt_embeddings"), screen=screen
    )


def test_a_callback_that_exchanges_the_prompt_after_the_first_step(pipe):
    with torch.no_grad():
        other = pipe.encode_prompt(["zzz"], "cpu", 1, True)

    def swap(pipe, step, timestep, tensors):
        return {"prompt_embeds": torch.cat([other[1], other[0]])}

    call = {"prompt": "the cat", "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    assert_closed_in_strict_and_shown_in_balanced(
        pipe, lambda: {**call, **options(1, callback_on_step_end=swap)}, Reason("embeddings_exchanged")
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_a_callback_that_changes_latents(pipe, in_place):
    def change(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"].mul_(1.5) if in_place else tensors["latents"] * 1.5}

    assert_closed_in_strict_and_shown_in_balanced(
        pipe,
        lambda: {"prompt": "the cat", **options(1, callback_on_step_end=change)},
        Reason("latents_changed", step=0),
    )


@pytest.mark.filterwarnings("ignore:Passing `callback:FutureWarning")
def test_the_old_kind_of_callback(pipe):
    def change(step, timestep, latents):
        latents.mul_(1.5)

    assert_closed_in_strict_and_shown_in_balanced(
        pipe,
        lambda: {"prompt": "the cat", **options(1, callback=change, callback_steps=1)},
        Reason("latents_changed", step=0),
    )


def test_a_callback_that_only_looks_is_nothing_to_tell(pipe):
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["latents"].clone())
        return {"latents": tensors["latents"].clone()}

    _, output = verdicts(pipe, {"prompt": "the cat", **options(1, callback_on_step_end=look)}, "strict")
    assert output.verdicts[0].status == "passed" and output.verdicts[0].reasons == () and len(seen) == 3


def test_latents_that_hold_a_picture(pipe):
    start = noise(1, 4, 8, 8) + torch.linspace(-2, 2, 8)
    assert_closed_in_strict_and_shown_in_balanced(
        pipe, lambda: {"prompt": "the cat", **options(latents=start)}, Reason("not_noise")
    )
    _, output = verdicts(pipe, {"prompt": "the cat", **options(latents=noise(1, 4, 8, 8))}, "strict")
    assert output.verdicts[0].status == "passed"


def arrays(picture):
    pixels = np.asarray(picture)
    tensor = torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1)
    return [picture, [picture], (pixels / 255.0)[None], tensor[None], 2 * tensor[None] - 1]


@pytest.mark.parametrize("form", range(5))
def test_a_given_picture_that_is_protected(form):
    pipe = tiny_variant(StableDiffusionImg2ImgPipeline, "text")
    protected, gallery = tiny_picture(5), Gallery()
    gallery.add([("work-1", protected)])
    made = thresholds(pipe, 1e9, more={"image": tiny_picture(), "strength": 0.8})

    def call(picture):
        return {"prompt": "the cat", **options(1), "image": picture, "strength": 0.8}

    for policy, status in (("strict", "blocked"), ("balanced", "blocked"), ("monitor", "passed")):
        output = Shield(pipe, policy, gallery, thresholds=made)(**call(arrays(protected)[form]))
        assert output.verdicts[0].status == status
        (told,) = [r for r in output.verdicts[0].reasons if r.kind == "given_copy"]
        assert (told.work, told.detail) == ("work-1", "1 (image)") and output.verdicts[0].flagged
    output = Shield(pipe, "strict", gallery, thresholds=made)(**call(arrays(tiny_picture())[form]))
    assert output.verdicts[0].status == "passed" and output.verdicts[0].reasons == ()


def test_a_given_picture_that_cannot_be_looked_at():
    pipe = tiny_variant(StableDiffusionImg2ImgPipeline, "text")
    gallery = Gallery()
    gallery.add([("work-1", tiny_picture(5))])
    made = thresholds(pipe, 1e9, more={"image": tiny_picture(), "strength": 0.8})
    call = {"prompt": "the cat", **options(1), "image": noise(1, 4, 8, 8), "strength": 0.8}
    output = Shield(pipe, "strict", gallery, thresholds=made)(**call)
    assert output.verdicts[0].status == "blocked" and output.verdicts[0].reasons[-1] == Reason(
        "incomparable", detail="1 (image)"
    )


def test_the_second_encoders_prompt_is_screened_too():
    """SDXL, SD3 and Flux take another text for each encoder."""
    pipe = tiny_sdxl()
    shield = Shield(pipe, "strict", concepts=SCREEN, thresholds=thresholds(pipe, 1e9))
    call = options(1)
    hidden = shield("the cat", prompt_2="b0lto", **call).verdicts[0]
    assert hidden.concepts == ("Bolto",) and hidden.status == "mitigated"
    assert not SCREEN.found(hidden.rewritten_prompt or "")
    plain = shield("the cat", prompt_2="a dog", **options(1))
    assert plain.verdicts[0].status == "passed" and plain.verdicts[0].prompt == "the cat, a dog"
    assert np.array_equal(plain.images, pipe("the cat", prompt_2="a dog", **options(1)).images)


def test_an_unfinished_picture():
    pipe = tiny_sdxl()
    shield = Shield(pipe, preset("strict"), thresholds=thresholds(pipe, 1e9))
    output = shield("the cat", **options(1, output_type="latent", denoising_end=0.5))
    assert output.verdicts[0].status == "blocked" and output.verdicts[0].reasons[0].kind == "unfinished"
    assert not output.images.any()


def test_pictures_of_other_modes_are_read():
    gallery = Gallery()
    gallery.add([("work-1", tiny_picture(5))])
    for mode in ("RGBA", "P", "CMYK"):
        assert BlindSpots.of({"image": tiny_picture(5).convert(mode)}, gallery, tiny_sd()).copies
    assert not BlindSpots.of({"image": Image.new("L", (64, 64))}, gallery, tiny_sd()).copies


def test_generators_go_on_as_without_the_shield(pipe):
    mine, bare = noises(1), noises(1)
    Shield(pipe, "strict", thresholds=thresholds(pipe, 1e9))("the cat", **{**options(), "generator": mine})
    pipe("the cat", **{**options(), "generator": bare})
    assert torch.equal(mine[0].get_state(), bare[0].get_state())
