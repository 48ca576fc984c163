"""Descriptors: what hides a protected picture from one is found by another, and others' pictures by none."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from shield import Gallery
from shield.errors import BadRequestError
from shield.model.assets import weights_dir
from shield.protected.descriptors import DESCRIPTORS, Local, Pixels, available
from shield.protected.descriptors.local import MIRROR, features
from shield.protected.descriptors.placement import correlation
from shield.protected.descriptors.vectors import Vectors

pytestmark = pytest.mark.skipif(not Local.available(), reason="OpenCV isn't installed; pip install -e '.[local]'")


def work(number):
    files = sorted((weights_dir() / "testbed" / "works").glob("work-*.png"))
    return Image.open(files[number]).convert("RGB")


@pytest.fixture(scope="module")
def gallery():
    made = Gallery(descriptors=["pixels", "local"])
    made.add([(f"work-{n}", work(n)) for n in range(12)])
    return made


def framed(picture, share):
    side = picture.width
    margin = round(share * side)
    out = Image.new("RGB", picture.size, "white")
    out.paste(picture.resize((side - 2 * margin,) * 2), (margin, margin))
    return out


def collage(picture):
    out = Image.new("RGB", picture.size)
    for place, one in enumerate((work(30), picture, work(31), work(32))):
        out.paste(one.resize((64, 64)), (place % 2 * 64, place // 2 * 64))
    return out


EDITS = {
    "framed by 3 %": lambda p: framed(p, 0.03),
    "shifted by 6 %": lambda p: Image.fromarray(np.roll(np.asarray(p), 8, axis=1)),
    "turned by 5 degrees": lambda p: p.rotate(5, Image.Resampling.BICUBIC),
    "turned by 90 degrees, mirrored": lambda p: p.rotate(90).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "a quarter of a collage": collage,
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_hides_a_picture_from_its_thumbnail_is_found(gallery, edit):
    for number in (1, 4, 7):
        found = gallery.nearest(EDITS[edit](work(number)))
        assert (found.work, found.closeness, found.descriptor) == (f"work-{number}", "copy", "local")


def smooth(seed, width=160, height=96):
    """A picture without corners: a few cycles of sines in each channel."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [
        sum(np.sin(rng.uniform(0, 6) + 6 * (rng.normal() * x + rng.normal() * y)) for _ in range(3)) for _ in "rgb"
    ]
    return Image.fromarray((128 + 40 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8))


def in_a_corner(picture):
    out = work(30).resize(picture.size)
    out.paste(picture.resize((picture.width // 2, picture.height // 2)), (0, picture.height - picture.height // 2))
    return out


SMOOTH_EDITS = {
    "framed by 10 %": lambda p: ImageOps.expand(p, (16, 10), "white").resize(p.size),
    "a corner at half the size": in_a_corner,
    "cropped by 30 %": lambda p: p.crop((24, 14, 136, 82)).resize(p.size),
    "turned by 15 degrees": lambda p: p.rotate(15, Image.Resampling.BICUBIC),
    "mirrored in a corner": lambda p: in_a_corner(ImageOps.mirror(p)),
}


@pytest.fixture(scope="module")
def smooth_gallery():
    made = Gallery(descriptors=["pixels", "local", "dense"])
    made.add([(f"smooth-{n}", smooth(n)) for n in range(12)])
    return made


@pytest.mark.parametrize("edit", SMOOTH_EDITS)
def test_pictures_without_corners_are_found_by_their_colors(smooth_gallery, edit):
    for number in (2, 5):
        found = smooth_gallery.nearest(SMOOTH_EDITS[edit](smooth(number)))
        assert (found.work, found.descriptor, found.closeness) == (f"smooth-{number}", "dense", "copy")


def test_other_pictures_without_corners_are_no_copies(smooth_gallery):
    assert [n for n in range(20, 32) if smooth_gallery.nearest(smooth(n)).copied] == []


def test_where_a_picture_without_corners_lies(smooth_gallery):
    region = smooth_gallery.nearest(in_a_corner(smooth(2))).region
    assert np.allclose(region, [[0, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]], atol=0.03)


def test_a_quarter_is_near_and_half_is_a_copy(gallery):
    """Flags share a canton and aren't copies of each other: a quarter says too little about the rest."""
    quarter, half = (work(4).crop((0, 0, side, side)).resize((128, 128)) for side in (72, 90))
    assert [(gallery.nearest(one).work, gallery.nearest(one).closeness) for one in (quarter, half)] == [
        ("work-4", "near"),
        ("work-4", "copy"),
    ]


def test_pictures_of_the_same_style_are_no_copies(gallery):
    assert [n for n in range(20, 28) if gallery.nearest(work(n)).closeness != "none"] == []


def test_the_region_is_where_the_picture_lies(gallery):
    """The upper right quarter, and of a mirror image with its corners exchanged."""
    quarter = np.array([[0.5, 0], [1, 0], [1, 0.5], [0.5, 0.5]])
    shown = collage(work(4))
    assert np.allclose(gallery.nearest(shown).region, quarter, atol=0.02)
    mirrored = gallery.nearest(shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).region
    assert np.allclose(mirrored, [[0.5, 0], [0, 0], [0, 0.5], [0.5, 0.5]], atol=0.02)


def test_other_hues_are_found_by_brightness_and_saturation(gallery):
    pixels = np.array(work(2).convert("HSV"))
    pixels[..., 0] += 128
    found = gallery.nearest(Image.fromarray(pixels, "HSV").convert("RGB"))
    assert (found.work, found.metric, found.copied) == ("work-2", "tones", True)


def test_near_is_between_copy_and_no_copy(gallery):
    """A thumbnail's correlation of .85: half way between the limits .8 and .9."""
    rng = np.random.default_rng(0)
    square = np.kron(rng.integers(40, 216, (8, 8, 3)), np.ones((16, 16, 1)))
    other = np.kron(rng.standard_normal((8, 8, 3)), np.ones((16, 16, 1)))
    for channel in range(3):
        one = square[..., channel] - square[..., channel].mean()
        other[..., channel] -= other[..., channel].mean()
        other[..., channel] -= one * (one * other[..., channel]).sum() / (one**2).sum()
        other[..., channel] *= np.sqrt((one**2).sum() / (other[..., channel] ** 2).sum())
    mixed = square + other * np.sqrt(1 / 0.85**2 - 1)
    shown = Image.fromarray((128 + 0.5 * (mixed - 128)).clip(0, 255).astype(np.uint8))
    made = Gallery(descriptors=["pixels"])
    made.add([("square", Image.fromarray(square.astype(np.uint8)))])
    found = made.nearest(shown)
    assert found.score == pytest.approx(0.85, abs=0.01)
    assert (found.closeness, found.near, found.copied, found.near_threshold) == ("near", True, False, 0.8)


def test_every_descriptor_is_named_after_its_place_in_the_table():
    assert {name: one.name for name, one in DESCRIPTORS.items()} == {name: name for name in DESCRIPTORS}
    assert available()[0] == "pixels"
    with pytest.raises(BadRequestError, match="no descriptor 'pixel'"):
        Gallery(descriptors=["pixel"])


def test_a_saved_gallery_finds_the_same(gallery, tmp_path):
    gallery.save(tmp_path)
    loaded, shown = Gallery.load(tmp_path), framed(work(7), 0.06)
    assert list(loaded.descriptors) == ["pixels", "local"]
    assert loaded.nearest(shown) == gallery.nearest(shown)
    loaded.remove("work-7")
    assert len(loaded.descriptors["local"]) == len(loaded) == 11
    assert loaded.nearest(shown).closeness == "none"


def test_embedding_a_folder_goes_on_where_it_ended(tmp_path, monkeypatch):
    import shield.protected.gallery as module

    monkeypatch.setattr(module, "BATCH", 2)
    (tmp_path / "in").mkdir()
    for number in range(5):
        work(number).save(tmp_path / "in" / f"{number}.png")
    told, described = [], []

    def stop(done, total):
        told.append((done, total))
        if done == 4 and len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Gallery.from_folder(tmp_path / "in", progress=stop, parts=tmp_path / "parts")
    plain = Pixels.describe
    monkeypatch.setattr(Pixels, "describe", lambda self, images: described.append(len(images)) or plain(self, images))
    made = Gallery.from_folder(tmp_path / "in", progress=stop, parts=tmp_path / "parts")
    assert told == [(2, 5), (4, 5), (2, 5), (4, 5), (5, 5)] and sum(described) == 1
    assert made.works == ("0", "1", "2", "3", "4")
    assert made.nearest(framed(work(3), 0.05)).work == "3"


def test_a_mirrored_description_is_a_permutation():
    upright, mirrored = (features(view, 256, 100) for view in (work(1), work(1).transpose(0)))
    alike = (upright.descriptions[:, MIRROR] @ mirrored.descriptions.T).max(axis=1)
    assert np.median(alike) > 0.99 > 0.95 > np.median((upright.descriptions @ mirrored.descriptions.T).max(axis=1))


def test_correlation_by_hand():
    """(1, 0, -1) with (1, -1, 0): 1 / (sqrt 2 * sqrt 2)."""
    one, other = np.array([[2.0], [1.0], [0.0]]), np.array([[9.0], [7.0], [8.0]])
    assert correlation(one, other) == pytest.approx(0.5)
    assert correlation(one, np.full((3, 1), 7.0)) == 0.0


def test_vectors_by_cells_find_what_all_find_and_are_removed_in_place():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    every, cells = Vectors(32), Vectors(32, exact=1000)
    for one in (every, cells):
        one.add(rows[:2000])
        one.add(rows[2000:])
    assert (every.kind, cells.kind) == ("exact", "inverted file")
    asked = rows[::100]
    assert (cells.search(asked, 1)[1] == every.search(asked, 1)[1]).all()
    index, kept = cells._index, np.arange(3000) % 2 == 1
    cells.keep(kept)
    scores, places = cells.search(rows[1:100:2], 1)
    assert cells._index is index and len(cells) == 1500
    assert places[:, 0].tolist() == list(range(50)) and (scores > 0.99).all()


@pytest.mark.parametrize("on_disk", [False, True])
def test_vectors_are_saved(tmp_path, on_disk):
    rows = np.eye(64, dtype=np.float32)
    held = Vectors(64, exact=10)
    held.add(rows)
    held.save(tmp_path / "index")
    read = Vectors.load(tmp_path / "index", 64, on_disk)
    assert read.search(rows[7:8], 1)[1].tolist() == [[7]]


def test_a_pale_copy_is_found_by_its_tiles_without_calibration():
    """Noise of 6 on a contrast of 6 halves the correlation's square, and moves no tile by a tenth."""
    rng = np.random.default_rng(1)
    pale = 128 + 0.2 * (np.asarray(work(5), np.float32) - 128)
    shown = np.kron(rng.standard_normal((32, 32, 3)), np.ones((4, 4, 1))) * 0.8 * pale.std(axis=(0, 1)) + pale
    made = Gallery(descriptors=["pixels"])
    made.add([("pale", Image.fromarray(pale.astype(np.uint8)))])
    found = made.nearest(Image.fromarray(shown.clip(0, 255).astype(np.uint8)))
    assert (found.metric, found.copied) == ("tiles", True) and found.score > found.threshold == 0.9
    flat = Image.fromarray(rng.integers(118, 138, (128, 128, 3), dtype=np.uint8))
    assert not made.nearest(flat).copied
