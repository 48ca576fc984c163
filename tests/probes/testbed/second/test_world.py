"""The second world: pictures that seeds decide, a ladder with enough held out, non-members that match, no leaks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from probes.testbed.second import canvases, scenes, sprites, world
from probes.testbed.second.backdrops import BACKDROPS, SIZE
from probes.testbed.second.rendered import RenderedPictures, render
from probes.testbed.second.words import AUTHORS, FIGURES, PRODUCTS, THINGS, shown, vocabulary
from shield.errors import ShieldError


def test_a_draw_depends_on_its_seed_alone(sprites: sprites.Sprites) -> None:
    draws = [[world.draw(np.random.default_rng([3, k]), sprites) for k in range(12)] for _ in range(2)]
    assert [s.caption for s in draws[0]] == [s.caption for s in draws[1]]
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(*draws, strict=True))


@pytest.mark.parametrize("manner", [*BACKDROPS, canvases.PRINT])
def test_a_painting_is_its_seed_s_and_another_seed_s_differs(manner: str, sprites: sprites.Sprites) -> None:
    first, again, other = (np.asarray(canvases.paint(manner, seed, sprites), dtype=int) for seed in (7, 7, 8))
    assert first.shape == (SIZE, SIZE, 3) and np.array_equal(first, again)
    assert np.abs(first - other).mean() > 10


def test_each_rung_has_24_works_of_which_16_are_held_out_and_every_painter_twice() -> None:
    verbatim = [w for w in world.works() if w.memorization == "VM"]
    for rung in world.RUNGS:
        group = [w for w in verbatim if w.exposures == rung]
        assert Counter(w.split for w in group) == {"heldout": 16, "dev": 8}
        assert set(Counter(w.manner for w in group).values()) == {2} and len({w.manner for w in group}) == 12
    template = [w for w in world.works() if w.memorization == "TM"]
    assert Counter(w.split for w in template) == {"heldout": 8, "dev": 8} and len(template) == len(PRODUCTS)
    assert len(set(template[0].captions(12))) > 6


def test_every_painter_has_works_and_nonmembers_in_both_splits() -> None:
    for items in ([w for w in world.works() if w.memorization == "VM"], world.nonmembers()):
        for split in ("dev", "heldout"):
            assert {w.manner for w in items if w.split == split} == set(AUTHORS.values())


def test_ids_captions_and_pictures_seeds_are_one_item_s_each() -> None:
    items = [*world.works(), *world.nonmembers()]
    for of in (lambda w: w.id, lambda w: w.caption, lambda w: (w.manner, w.seed)):
        assert len({of(w) for w in items}) == len(items)


def test_training_draws_use_no_work_s_and_no_nonmember_s_caption(sprites: sprites.Sprites) -> None:
    kept = {w.caption for w in [*world.works(), *world.nonmembers()] if w.memorization == "VM"}
    kept |= {w.caption.removeprefix("{} {} ") for w in world.works() if w.memorization == "TM"}
    rng = np.random.default_rng(0)
    drawn = [world.fresh(rng, sprites).caption for _ in range(150)]
    assert not kept & {*drawn, *(c.split(" ", 2)[2] for c in drawn)}


def test_spare_captions_are_nobody_s() -> None:
    made = world.spare_captions(400, seed=8)
    assert len(set(made)) == 400 and not {*made} & {w.caption for w in [*world.works(), *world.nonmembers()]}
    assert all(world.reserved(caption.removeprefix("the ").split(",")[0]) for caption in made)


def test_every_caption_word_is_in_the_vocabulary(sprites: sprites.Sprites) -> None:
    rng = np.random.default_rng(1)
    captions = [world.draw(rng, sprites).caption for _ in range(150)]
    captions += [c for work in world.works() for c in work.captions(2)]
    grounds = scenes.ground_words("orange", "striped")
    captions += [f.format(j.format("a cat", "a car"), grounds) for f in scenes.FORMS for j in scenes.JOINED]
    assert {w for c in captions for w in c.replace(",", "").split()} <= set(shown()) < set(vocabulary())


def test_a_scene_s_caption_names_its_things_from_left_to_right(sprites: sprites.Sprites) -> None:
    rng = np.random.default_rng(2)
    samples = [scenes.scene(rng, sprites) for _ in range(80)]
    named = [[w for w in s.caption.split() if w in THINGS] for s in samples]
    assert {len(n) for n in named} == {1, 2} and sum(len(n) == 2 for n in named) < 30
    pair = next(s for s, n in zip(samples, named, strict=True) if len(n) == 2)
    left, right = (w for w in pair.caption.split() if w in THINGS)
    array, close = np.asarray(pair.image, dtype=int), []
    for thing, at in ((left, 34), (right, 94)):
        own = np.asarray(sprites[thing].convert("RGB"), dtype=int)[80, 80]
        close.append(np.abs(array[64, at] - own).max())
    assert max(close) < 12


def test_figures_of_paintings_are_no_things_of_scenes() -> None:
    assert not set(FIGURES) & set(THINGS.values()) and len(set(FIGURES)) == len(FIGURES)


def test_missing_and_broken_sprites_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShieldError, match="npm pack @lobehub/fluent-emoji-3d"):
        sprites.Sprites(tmp_path)
    for stem in (*THINGS.values(), *FIGURES):
        (tmp_path / f"{stem}.webp").write_bytes(b"not a picture")
    with pytest.raises(ShieldError, match="can't be read as a picture"):
        sprites.Sprites(tmp_path)


def test_rendered_pictures_are_the_draws_and_a_lost_chunk_comes_back_equal(
    sprites: sprites.Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.testbed.second.rendered.CHUNK", 3)
    draw = lambda rng: scenes.draw_scene(rng, sprites)  # noqa: E731
    render(tmp_path, "some", 7, draw, (5,))
    pictures = RenderedPictures(tmp_path, ["some"])
    assert len(pictures) == len(pictures.captions) == 7
    rng = np.random.default_rng([5, 1])
    expected = [draw(rng) for _ in range(3)][2]
    assert np.array_equal(pictures.crop(5), np.asarray(expected.image)) and pictures.captions[5] == expected.caption
    assert np.array_equal(pictures.crop(5, 3, 9, 20), np.asarray(expected.image)[3:23, 9:29])
    before = pictures.crop(4).copy()
    (tmp_path / "some-001.npy").unlink()
    render(tmp_path, "some", 7, draw, (5,))
    assert np.array_equal(RenderedPictures(tmp_path, ["some"]).crop(4), before)
    with pytest.raises(FileNotFoundError, match="none"):
        RenderedPictures(tmp_path, ["none"])
