import logging

import numpy as np
import pytest
from PIL import Image, ImageOps

from shield.gallery import Gallery
from shield.pictures import open_image
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
