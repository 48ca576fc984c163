import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from shield.errors import BadRequestError, GalleryError
from shield.gallery import Gallery, pdq, thumbnail


def picture(seed, size=128):
    """A detailed picture: forty random rectangles."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.integers(0, size, 2).tolist()
        draw.rectangle((x, y, x + size // 4, y + size // 5), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


@pytest.fixture
def gallery():
    made = Gallery()
    made.add([(f"work-{i}", picture(i)) for i in range(20)])
    return made


def test_thumbnails_are_unit_vectors_and_their_product_is_the_correlation():
    a, b = thumbnail(picture(1)), thumbnail(picture(2))
    assert np.linalg.norm(a) == pytest.approx(1.0, abs=1e-5)
    small = [np.asarray(picture(i).resize((32, 32), Image.Resampling.BOX), float) for i in (1, 2)]
    centered = [s - s.mean(axis=(0, 1)) for s in small]
    want = (centered[0] * centered[1]).sum() / np.prod([np.sqrt((c**2).sum()) for c in centered])
    assert float(a @ b) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        lambda p: p,
        lambda p: ImageEnhance.Brightness(p).enhance(0.8),
        lambda p: ImageEnhance.Contrast(p).enhance(0.6),
        lambda p: p.resize((300, 300)),
        lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda p: p.convert("RGBA"),
    ],
    ids=["same", "darker", "flatter", "larger", "mirrored", "rgba"],
)
def test_copies_are_found(gallery, changed):
    found = gallery.nearest(changed(picture(7)))
    assert found.copied and found.work == "work-7" and found.score > 0.8


def test_gray_copy_is_found_by_pdq(gallery):
    found = gallery.nearest(picture(7).convert("L"))
    assert found.copied and found.work == "work-7"


def test_other_pictures_are_not_copies(gallery):
    found = [gallery.nearest(picture(100 + i)) for i in range(30)]
    assert not any(f.copied for f in found) and max(f.score for f in found) < 0.8


def test_a_flat_picture_copies_nothing(gallery):
    assert not gallery.nearest(Image.new("RGB", (64, 64), "red")).copied


def test_empty_gallery_has_no_nearest():
    assert Gallery().nearest(picture(0)) is None


def test_removed_works_are_found_no_more(gallery):
    assert gallery.remove("work-7") == 1 and len(gallery) == 19
    assert not gallery.nearest(picture(7)).copied
    assert gallery.nearest(picture(8)).work == "work-8"
    with pytest.raises(GalleryError, match="no work 'work-7'"):
        gallery.remove("work-7")


def test_saved_and_loaded_finds_the_same(gallery, tmp_path):
    gallery.save(tmp_path / "g")
    loaded = Gallery.load(tmp_path / "g")
    for seed in (3, 200):
        assert loaded.nearest(picture(seed)) == gallery.nearest(picture(seed))
    assert loaded.works == gallery.works
    loaded.add([("new", picture(50))])
    assert loaded.nearest(picture(50)).work == "new"


def test_from_folder_and_a_broken_picture(tmp_path):
    for i in range(3):
        picture(i).save(tmp_path / f"w{i}.png")
    assert Gallery.from_folder(tmp_path).works == ("w0", "w1", "w2")
    (tmp_path / "w1.png").write_bytes((tmp_path / "w1.png").read_bytes()[:200])
    with pytest.raises(GalleryError, match=r"w1\.png can't be read as a picture"):
        Gallery.from_folder(tmp_path)
    with pytest.raises(GalleryError, match="holds no pictures"):
        Gallery.from_folder(tmp_path / "none")


def test_a_refused_picture_adds_nothing(gallery, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    for bad in (tmp_path / "bad.png", tmp_path / "missing.png", Image.new("RGB", (9, 9))):
        with pytest.raises(GalleryError):
            gallery.add([("good", picture(99)), ("bad", bad)])
    assert len(gallery) == 20 and not gallery.nearest(picture(99)).copied


@pytest.mark.parametrize("broken", ["missing", "cut", "format", "number"])
def test_a_broken_saved_gallery_is_one_sentence(gallery, tmp_path, broken):
    gallery.save(tmp_path)
    path = tmp_path / "gallery.json"
    data = json.loads(path.read_text())
    if broken == "missing":
        (tmp_path / "features.npz").unlink()
    elif broken == "cut":
        path.write_text(path.read_text()[:50])
    else:
        path.write_text(json.dumps({**data, **({"format": 9} if broken == "format" else {"works": ["one"]})}))
    with pytest.raises(GalleryError, match="isn't a saved gallery"):
        Gallery.load(tmp_path)


def test_a_correlation_threshold_lies_between_0_and_1():
    with pytest.raises(BadRequestError):
        Gallery(1.5)


def test_pdq_hash_is_256_bits_and_tells_quality():
    bits, quality = pdq(picture(3))
    assert bits.shape == (32,) and bits.dtype == np.uint8 and quality > 50
    assert pdq(Image.new("RGB", (64, 64), "red"))[1] < 50
