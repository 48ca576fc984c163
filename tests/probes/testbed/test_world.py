"""The world: fixed works, fresh non-members, and captions that never leak into training."""

import numpy as np
import pytest
from PIL import Image

from probes.testbed import pool, world
from probes.testbed.build import CPU, GPU
from probes.testbed.characters import CHARACTERS, RESERVED, neighbor
from probes.testbed.vocabulary import THINGS, vocabulary
from shield.errors import ShieldError


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> world.Sprites:
    """Stand-in sprites: colored discs in the files' real names and sizes."""
    folder = tmp_path_factory.mktemp("sprites")
    for n, stem in enumerate(THINGS.values()):
        Image.new("RGBA", (256, 256), (7 * n % 256, 40, 200, 255)).save(folder / f"{stem}.webp")
    return world.Sprites(folder)


def test_a_work_is_the_same_picture_every_time() -> None:
    first, second = world.works()[5], world.works()[5]
    assert np.array_equal(np.asarray(first.image()), np.asarray(second.image()))


def test_the_ladder_has_sixteen_verbatim_works_a_rung_and_template_works_beside() -> None:
    works = world.works()
    verbatim = [w for w in works if w.memorization == "VM"]
    assert [sum(w.exposures == rung for w in verbatim) for rung in world.RUNGS] == [16] * len(world.RUNGS)
    assert len({w.caption for w in works}) == len(works)
    template = next(w for w in works if w.memorization == "TM")
    assert len(set(template.captions(12))) > 6


def test_each_rung_has_the_same_share_held_out() -> None:
    verbatim = [w for w in world.works() if w.memorization == "VM"]
    held = {r: [] for r in world.RUNGS}
    for i, work in enumerate(verbatim):
        held[work.exposures].append(world.split_of(i // len(world.RUNGS)) == "heldout")
    assert {sum(h) for h in held.values()} == {5}


def test_training_draws_use_no_reserved_title(sprites: world.Sprites) -> None:
    reserved = {w.caption for w in world.works() if w.memorization == "VM"}
    reserved |= {w.caption for w in world.nonmembers(72)} | set(world.nonmember_captions(200, 0))
    rng = np.random.default_rng(0)
    drawn = {world.fresh_painting(rng).caption for _ in range(400)}
    assert not drawn & reserved
    products = {world.fresh_product(rng).caption.split(" ", 2)[2] for _ in range(200)}
    assert not products & {w.caption.removeprefix("{} {} ") for w in world.works() if w.memorization == "TM"}


def test_no_neighbor_has_a_character_s_looks() -> None:
    rng = np.random.default_rng(0)
    made = [neighbor(rng) for _ in range(500)]
    assert not {(c.kind, c.color, c.legs) for c in made} & RESERVED
    assert len({(c.creature.kind, c.creature.color, c.creature.legs) for c in CHARACTERS}) == len(CHARACTERS)


def test_every_caption_word_is_in_the_vocabulary(sprites: world.Sprites) -> None:
    rng = np.random.default_rng(1)
    words = {w for _ in range(300) for w in world.draw(rng, sprites).caption.replace(",", "").split()}
    words |= {w for work in world.works() for c in work.captions(3) for w in c.replace(",", "").split()}
    assert words <= set(vocabulary())


def test_a_draw_depends_on_its_seed_alone(sprites: world.Sprites) -> None:
    one, two = (world.draw(np.random.default_rng([3, 9]), sprites) for _ in range(2))
    assert one.caption == two.caption and np.array_equal(np.asarray(one.image), np.asarray(two.image))


def test_missing_and_broken_sprites_say_what_to_do(tmp_path) -> None:
    with pytest.raises(ShieldError, match="fluent-emoji-3d"):
        world.Sprites(tmp_path)
    for stem in THINGS.values():
        (tmp_path / f"{stem}.webp").write_bytes(b"not a picture")
    with pytest.raises(ShieldError, match="can't be read as a picture"):
        world.Sprites(tmp_path)


PLAN = pool.PoolPlan(base=30, passes=(40, 20), batch=10)


def test_a_fork_shows_each_work_exactly_as_often_as_planned() -> None:
    for part, exposures in ((1, [0, 2, 100]), (2, [0, 1, 50])):
        order = pool.fork_order(PLAN, part, exposures)
        assert np.bincount(order.index[order.stream == 2], minlength=3).tolist() == exposures
        assert len(order.stream) == 10 * PLAN.passes[part - 1]


def test_the_clean_fork_differs_in_the_work_slots_alone_and_no_other_picture_comes_twice() -> None:
    order = pool.fork_order(PLAN, 1, [2, 100])
    twin = pool.clean(order)
    slots = order.stream == 2
    assert np.array_equal(order.stream[~slots], twin.stream[~slots])
    assert np.array_equal(order.index[~slots], twin.index[~slots])
    assert set(twin.stream[slots]) == {3}
    for number, stream in enumerate(pool.STREAMS):
        if stream != "works":
            assert sorted(twin.index[twin.stream == number]) == list(range(twin.count(stream)))


def test_works_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ShieldError, match="at least a fifth"):
        pool.fork_order(PLAN, 1, [600])


def test_the_ladder_s_passes_fit_the_presets() -> None:
    for preset in (CPU, GPU):
        assert len(preset.forks) == world.PASSES == len(world.TEMPLATE_EXPOSURES)
        for part in range(1, world.PASSES + 1):
            pool.fork_order(preset.plan, part, [w.passes[part - 1] for w in world.works()])
