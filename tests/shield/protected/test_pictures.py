import logging

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from shield.errors import GalleryError
from shield.protected.gallery import Gallery
from shield.protected.pictures import UNREADABLE, open_frames, open_image
from shield.runtime.blind_spots import BlindSpots
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_protected_the_way_a_viewer_shows_it(tmp_path, orientation):
    cells = np.random.default_rng(3).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    stored = Image.fromarray(cells).resize((192, 128), Image.Resampling.BICUBIC)
    tag = Image.Exif()
    tag[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=tag, quality=95)
    with Image.open(tmp_path / "photo.jpg") as image:
        shown = ImageOps.exif_transpose(image)
    assert open_image(tmp_path / "photo.jpg").size == shown.size
    assert Gallery.from_folder(tmp_path).nearest(shown).copied


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white(mode, tmp_path):
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0)).convert(mode)
    clear.save(tmp_path / "clear.png")
    assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_all_pictures_of_a_folder_are_protected_and_the_rest_is_named(tmp_path, caplog):
    (tmp_path / "more").mkdir()
    names = ["a.png", "b.gif", "c.bmp", "d.tiff", "e.jfif", "more/f.png"]
    for number, name in enumerate(names):
        tiny_picture(number).save(tmp_path / name, format="JPEG" if name.endswith("jfif") else None)
    (tmp_path / "list.txt").write_text("mine")
    with caplog.at_level(logging.WARNING, "shield"):
        gallery = Gallery.from_folder(tmp_path)
    assert set(gallery.works) == {"a", "b", "c", "d", "e", "more/f"}
    assert "list.txt" in caplog.text and "1 files" in caplog.text


GRAY = np.tile(np.linspace(0, 255, 64), (48, 1))


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_keep_their_shades(name, tmp_path):
    Image.fromarray((GRAY * 257).astype(np.uint16)).save(tmp_path / name)
    shown = np.asarray(open_image(tmp_path / name))
    assert np.abs(shown - GRAY[:, :, None]).max() <= 1.0, "Pillow alone shows all but the darkest 256 as white"


@pytest.mark.parametrize("top", [1, 255, 65535, 3.7])
def test_floats_and_wide_integers_keep_their_shades(top, tmp_path):
    levels = (GRAY / 255 * top).astype(np.float32)
    Image.fromarray(levels).save(tmp_path / "floats.tiff")
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "whole.tiff")
    assert np.abs(np.asarray(open_image(tmp_path / "floats.tiff")) - GRAY[:, :, None]).max() <= 1.0
    if top >= 255:
        assert np.abs(np.asarray(open_image(tmp_path / "whole.tiff")) - GRAY[:, :, None]).max() <= 1.0


def test_values_that_are_no_numbers_are_no_picture():
    levels = GRAY.astype(np.float32)
    levels[0, 0] = np.nan
    for source in (Image.fromarray(levels), levels, torch.from_numpy(levels)):
        with pytest.raises(ValueError, match="no numbers"):
            open_image(source)


def test_a_color_profile_holds():
    """One whose red is blue: the bytes of sRGB's own with two of its columns exchanged, and another name."""
    given = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = given.index(b"rXYZ"), given.index(b"bXYZ")
    given[red : red + 4], given[blue : blue + 4] = b"bXYZ", b"rXYZ"
    given = given.replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    picture.info["icc_profile"] = bytes(given)
    red, green, blue = open_image(picture).getpixel((0, 0))
    assert blue > 250 and red < 10 and green < 10
    clear = picture.convert("RGBA")
    clear.putalpha(Image.new("L", (4, 4), 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    assert open_image(clear).getpixel((1, 1)) == (255, 255, 255) and open_image(clear).getpixel((0, 0))[2] > 250
    assert open_image(open_image(picture)).tobytes() == open_image(picture).tobytes(), "it is applied once"
    picture.info["icc_profile"] = b"no profile"
    assert open_image(picture).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "P", "LA", "La", "PA", "RGBa", "RGBX", "1"])
def test_every_mode_is_the_same_picture(mode):
    picture, through = tiny_picture(4), {"La": "LA", "PA": "P", "RGBa": "RGBA"}
    stored = picture.convert(through.get(mode, mode)).convert(mode)
    gallery = Gallery()
    gallery.add([("one", stored)])
    shown = open_image(stored)
    assert shown.mode == "RGB" and gallery.nearest(shown).copied
    if mode in ("CMYK", "YCbCr", "HSV", "RGBa", "RGBX"):
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(picture)).mean() < 4.0


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.avif", "a.tiff"])
def test_every_frame_is_protected(name, tmp_path):
    frames = [tiny_picture(number) for number in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=[*frames[1:], frames[0]], duration=100)
    gallery = Gallery.from_folder(tmp_path)
    assert set(gallery.works) == {"a"} and len(gallery) >= 3
    assert all(gallery.nearest(frame).copied for frame in frames)
    with Image.open(tmp_path / name) as image:
        assert len(list(open_frames(image))) == 4 and image.tell() == 0


def test_a_small_copy_or_mask_within_a_file_is_no_page(tmp_path):
    picture = tiny_picture(1)
    for kind, pages in ((0, 2), (1, 1), (2, 2), (4, 1)):
        other = ImageOps.invert(picture)
        other.encoderinfo = {"tiffinfo": {254: kind}}
        picture.save(tmp_path / "a.tiff", save_all=True, append_images=[other])
        assert len(list(open_frames(tmp_path / "a.tiff"))) == pages


def test_arrays_and_tensors_are_pictures():
    picture = tiny_picture(5)
    gallery, array = Gallery(), np.asarray(picture)
    gallery.add([("one", picture)])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    clear = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    for given in (
        array,
        array / 255.0,
        array.astype(np.float32),
        array / 127.5 - 1,
        array.astype(np.uint16) * 257,
        clear,
        array[None],
        array.transpose(2, 0, 1),
        tensor,
        tensor / 255.0,
        (tensor / 255.0).bfloat16(),
        tensor[None] / 127.5 - 1,
        (tensor / 255.0).requires_grad_(),
    ):
        nearest = gallery.nearest(given)
        assert nearest.copied and nearest.score > 0.999, (given.dtype, given.shape)
    other = Gallery()
    other.add([("one", tensor / 255.0)])
    assert other.nearest(picture).copied


@pytest.mark.parametrize(
    "given",
    [
        torch.randn(4, 8, 8),
        torch.zeros(2, 3, 8, 8),
        np.zeros((8, 8, 5), np.uint8),
        np.full((8, 8, 3), 1e6),
        np.zeros((0, 8, 3), np.uint8),
        np.array(["a"]),
    ],
)
def test_latents_and_other_arrays_are_no_pictures(given):
    with pytest.raises(GalleryError, match="can't be read as a picture"):
        Gallery().add([("one", given)])


def test_a_size_is_looked_at_before_decoding(tmp_path, monkeypatch):
    tiny_picture(1).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = image.width * image.height
    assert open_image(tmp_path / "a.png", pixels).mode == "RGB"
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UNREADABLE, match="pixels"):
        open_image(tmp_path / "a.png", pixels - 1)


def test_a_file_that_says_it_is_a_program_is_not_run(tmp_path):
    """Pillow hands PostScript, whatever its name, to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(GalleryError, match="can't be read"):
        Gallery.from_folder(tmp_path)


def test_what_is_hidden_linked_or_broken_in_a_folder(tmp_path, caplog):
    folder, elsewhere = tmp_path / "f", tmp_path / "elsewhere"
    for place in (folder / ".cache", elsewhere):
        place.mkdir(parents=True)
    for number, path in enumerate(
        [folder / "A.PNG", folder / ".b.png", folder / "._A.png", folder / ".cache/c.png", elsewhere / "d.png"]
    ):
        tiny_picture(number).save(path)
    (folder / ".DS_Store").write_text("")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    with caplog.at_level(logging.WARNING, "shield"):
        assert Gallery.from_folder(folder).works == ("A", "linked/d")
    assert "2 files" in caplog.text and ".b.png" in caplog.text and ".cache/c.png" in caplog.text
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("RGB", (8, 8), "red").save(folder / "flat.png")
    with pytest.raises(GalleryError, match=r"2 of 4 pictures .*flat.*gone\.png can't be read"):
        Gallery.from_folder(folder)


def test_a_given_picture_is_compared_as_shown_and_as_the_pipeline_takes_it():
    """What is transparent, or lies on its side by a tag, still reaches the model as it is stored."""
    picture, pipe = tiny_picture(6), tiny_sd()
    gallery = Gallery()
    gallery.add([("one", picture)])
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    turned = picture.copy()
    turned.getexif()[0x0112] = 6
    for given in (picture, clear, turned, np.asarray(picture) / 255.0):
        noticed = BlindSpots.of({"image": given}, gallery, pipe)
        assert len(noticed.copies) == 1 and not noticed.blind
    assert BlindSpots.of({"image": torch.randn(1, 4, 8, 8)}, gallery, pipe).blind
