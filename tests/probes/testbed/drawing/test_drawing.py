"""What is drawn and how it is called: words, sprites, scenes, creatures, paintings."""

from pathlib import Path

import numpy as np
import pytest

from probes.testbed import world
from probes.testbed.drawing import canvases, scenes
from probes.testbed.drawing.backdrops import BACKDROPS, SIZE
from probes.testbed.drawing.characters import CHARACTERS, RESERVED, neighbor
from probes.testbed.drawing.sprites import Sprites
from probes.testbed.drawing.vocabulary import FIGURES, THINGS, shown, vocabulary
from shield.errors import ShieldError


def test_every_caption_word_is_in_the_vocabulary(sprites: Sprites) -> None:
    rng = np.random.default_rng(1)
    captions = [world.draw(rng, sprites).caption for _ in range(150)]
    captions += [c for work in world.works() for c in work.captions(2)]
    grounds = scenes.ground_words("orange", "striped")
    captions += [f.format(j.format("a cat", "a car"), grounds) for f in scenes.FORMS for j in scenes.JOINED]
    assert {w for c in captions for w in c.replace(",", "").split()} <= set(shown()) < set(vocabulary())


def test_a_scene_s_caption_names_its_things_from_left_to_right(sprites: Sprites) -> None:
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
        Sprites(tmp_path)
    for stem in (*THINGS.values(), *FIGURES):
        (tmp_path / f"{stem}.webp").write_bytes(b"not a picture")
    with pytest.raises(ShieldError, match="can't be read as a picture"):
        Sprites(tmp_path)


@pytest.mark.parametrize("manner", [*BACKDROPS, canvases.PRINT])
def test_a_painting_is_its_seed_s_and_another_seed_s_differs(manner: str, sprites: Sprites) -> None:
    first, again, other = (np.asarray(canvases.paint(manner, seed, sprites), dtype=int) for seed in (7, 7, 8))
    assert first.shape == (SIZE, SIZE, 3) and np.array_equal(first, again)
    assert np.abs(first - other).mean() > 10


def test_no_neighbor_has_a_character_s_looks() -> None:
    rng = np.random.default_rng(0)
    made = [neighbor(rng) for _ in range(500)]
    assert not {(c.kind, c.color, c.legs) for c in made} & RESERVED
    assert len({(c.creature.kind, c.creature.color, c.creature.legs) for c in CHARACTERS}) == len(CHARACTERS)
