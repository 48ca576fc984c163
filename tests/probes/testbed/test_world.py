"""The world: pictures that seeds decide, a ladder with enough held out, non-members that match, no leaks."""

from collections import Counter

import numpy as np

from probes.testbed import world
from probes.testbed.drawing.sprites import Sprites
from probes.testbed.drawing.vocabulary import AUTHORS, PRODUCTS


def test_a_draw_depends_on_its_seed_alone(sprites: Sprites) -> None:
    draws = [[world.draw(np.random.default_rng([3, k]), sprites) for k in range(12)] for _ in range(2)]
    assert [s.caption for s in draws[0]] == [s.caption for s in draws[1]]
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(*draws, strict=True))


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


def test_training_draws_use_no_work_s_and_no_nonmember_s_caption(sprites: Sprites) -> None:
    kept = {w.caption for w in [*world.works(), *world.nonmembers()] if w.memorization == "VM"}
    kept |= {w.caption.removeprefix("{} {} ") for w in world.works() if w.memorization == "TM"}
    rng = np.random.default_rng(0)
    drawn = [world.fresh(rng, sprites).caption for _ in range(150)]
    assert not kept & {*drawn, *(c.split(" ", 2)[2] for c in drawn)}


def test_spare_captions_are_nobody_s() -> None:
    made = world.spare_captions(400, seed=8)
    assert len(set(made)) == 400 and not {*made} & {w.caption for w in [*world.works(), *world.nonmembers()]}
    assert all(world.reserved(caption.removeprefix("the ").split(",")[0]) for caption in made)
