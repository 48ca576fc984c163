import copy
import json
import pickle
from threading import Thread

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from shield import Shield
from shield.errors import BadRequestError, GalleryError
from shield.protected.gallery import Gallery, pdq, thumbnail, worst_tile
from tests.tiny import tiny_sd


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
    with pytest.raises(GalleryError, match="no folder of pictures at .*none"):
        Gallery.from_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GalleryError, match="holds no pictures"):
        Gallery.from_folder(tmp_path / "empty")


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


def noncopies(n, first=1000):
    return [(f"other-{i}", picture(first + i)) for i in range(n)]


def test_calibrated_correlation_is_a_quantile_of_leave_one_out_neighbors(gallery):
    """Against numpy: each non-copy's correlation with its nearest neighbor among the works and the other non-copies."""
    others = noncopies(19)
    gallery.calibrate(others, 0.05, "by hand")
    features = np.stack([thumbnail(p) for _, p in others])
    mirrored = np.stack([thumbnail(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for _, p in others])
    works = np.stack([thumbnail(picture(i)) for i in range(20)])
    nearest = []
    for i in range(19):
        rest = np.concatenate([works, np.delete(features, i, axis=0)])
        nearest.append(max((rest @ features[i]).max(), (rest @ mirrored[i]).max()))
    assert gallery.correlation == pytest.approx(max(nearest), abs=1e-5)  # 95 % of 19: the largest
    about = gallery.provenance["correlation"]
    assert (about["fpr"], about["noncopies"], about["works"], about["source"]) == (0.05, 19, 20, "by hand")
    assert gallery.nearest(picture(7)).copied and not gallery.nearest(picture(2000)).copied


def test_where_the_thresholds_come_from_is_always_stated(gallery, tmp_path):
    assert "calibrate-gallery" in gallery.provenance["correlation"] and "Meta" in gallery.provenance["pdq_distance"]
    gallery.calibrate(noncopies(19), 0.05)
    gallery.save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert loaded.provenance == gallery.provenance and loaded.correlation == gallery.correlation
    data = json.loads((tmp_path / "gallery.json").read_text())
    data.pop("provenance")
    (tmp_path / "gallery.json").write_text(json.dumps(data))
    assert "calibrate-gallery" in Gallery.load(tmp_path).provenance["correlation"]


def test_bad_noncopies_change_nothing(gallery):
    before = gallery.correlation, dict(gallery.provenance)
    flat = [(str(i), Image.new("RGB", (9, 9), "red")) for i in range(19)]
    with pytest.raises(GalleryError, match="protected picture of work-3"):
        gallery.calibrate([*noncopies(19), ("mine", picture(3))], 0.05)
    for bad in (noncopies(5), []):
        with pytest.raises(BadRequestError, match="at least 19 negatives"):
            gallery.calibrate(bad, 0.05)
    with pytest.raises(BadRequestError, match="too plain"):
        Gallery().calibrate(flat, 0.05)
    assert (gallery.correlation, dict(gallery.provenance)) == before


def test_similar_takes_many_pictures_and_finds_what_nearest_finds(gallery):
    pictures = [picture(3), picture(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT), picture(500)]
    found = gallery.similar(pictures)
    assert [work for _, work in found[:2]] == ["work-3", "work-5"]
    assert found[0][0] == pytest.approx(1.0, abs=1e-5) and found[1][0] == pytest.approx(1.0, abs=1e-5)
    nearest = gallery.nearest(pictures[2])
    assert (nearest.score, nearest.work) == (pytest.approx(found[2][0]), found[2][1])


def test_works_added_one_by_one_are_found_like_works_added_at_once(gallery):
    single = Gallery()
    for i in range(20):
        single.add([(f"work-{i}", picture(i))])
    gray = picture(7).convert("L")
    assert single.nearest(gray) == gallery.nearest(gray) and single.works == gallery.works


def plain(seed):
    """A picture of so little contrast that its correlation with a blurred copy says little."""
    pixels = np.asarray(picture(seed), dtype=np.float32)
    return Image.fromarray((128 + 0.04 * (pixels - 128)).astype(np.uint8))


def test_the_worst_tile_by_hand():
    """One tile of 4 x 4 x 3 values differs by 0.5 in its half: sqrt(0.25 / 2)."""
    one, other = np.zeros((16, 16, 3), np.float32), np.zeros((16, 16, 3), np.float32)
    other[4:8, 8:10] = 0.5
    assert worst_tile(one.ravel(), other.reshape(1, -1)).tolist() == pytest.approx([0.125**0.5])


def test_tiles_find_a_copy_with_little_contrast(gallery):
    rng = np.random.default_rng(3)
    gallery.add([("pale", plain(40))])
    noisy = np.asarray(plain(40), dtype=np.float32) + 8 * rng.standard_normal((*plain(40).size[::-1], 3))
    copy = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    assert gallery.nearest(copy).metric == "tiles"  # also before it is calibrated
    gallery.calibrate(noncopies(19), 0.05)
    gallery.correlation = 0.99
    found = gallery.nearest(copy)
    assert (found.work, found.metric, found.copied) == ("pale", "tiles", True)
    assert found.score > found.threshold == 1 - gallery.tile_distance
    assert not gallery.nearest(picture(2000)).copied


def test_tiles_are_saved_and_removed_with_their_work(gallery, tmp_path):
    gallery.calibrate(noncopies(19), 0.05)
    gallery.add([("pale", plain(40))])
    gallery.save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert loaded.tile_distance == gallery.tile_distance > 0
    assert loaded.remove("pale") == 1 and len(loaded.pixels.colors) == len(loaded) == loaded.pixels.near.ntotal == 20


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda gallery: pickle.loads(pickle.dumps(gallery))])
def test_a_copy_of_a_gallery_is_one_of_its_own(gallery, copied):
    other = copied(gallery)
    assert other.works == gallery.works and other.provenance == gallery.provenance
    for n in range(3):
        assert other.nearest(picture(n)) == gallery.nearest(picture(n))
    other.remove(other.works[0])
    assert len(other) == len(gallery) - 1
    other.add([("new", picture(90))])
    assert other.nearest(picture(90)).work == "new" != gallery.nearest(picture(90)).work


def test_a_shield_with_a_gallery_can_be_copied(gallery):
    shield = Shield(tiny_sd(), "monitor", gallery, thresholds=[], calibrate="never")
    assert copy.deepcopy(shield).gallery.works == pickle.loads(pickle.dumps(shield)).gallery.works == gallery.works


def test_a_gallery_that_changes_while_others_look(gallery):
    """Works and features belong together at every moment."""
    wrong, changing = [], ("comes and goes", picture(91))
    before = gallery.nearest(picture(91)).work

    def look():
        try:
            for _ in range(10):
                assert gallery.nearest(picture(91)).work in (before, changing[0])
                assert gallery.similar([picture(91)])[0][1] in (before, changing[0])
        except Exception as error:
            wrong.append(error)

    threads = [Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        gallery.add([changing])
        gallery.remove(changing[0])
    assert wrong == []
