"""Many pictures at once: a folder's and an archive's, named after their files, and what is refused."""

import zipfile
from pathlib import Path

import pytest

from shield.errors import GalleryError
from tests.ui.pictures import saved
from ui import uploads
from ui.protected import Protected
from ui.uploads import pictures_of


def zipped(folder: Path, **held: bytes) -> Path:
    path = folder / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in held.items():
            packed.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return path


def test_an_archive_is_its_pictures_each_a_work_named_after_its_file(tmp_path: Path) -> None:
    one, two = (saved(tmp_path, n).read_bytes() for n in (1, 2))
    path = zipped(tmp_path, a__harbor_DOT_png=one, b__harbor_DOT_PNG=two, notes_DOT_txt=b"x", evil_DOT_png=one)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("../../out.png", two)
        packed.writestr("__MACOSX/._harbor.png", b"x")
    store = Protected(tmp_path / "p")
    with pictures_of([path]) as found:
        assert [file.name for file in found] == ["evil.png", "harbor.PNG", "harbor.png", "out.png"]
        assert all(file.resolve().is_relative_to(found[0].parents[2].resolve()) for file in found)
        assert store.add_works(found) == 4
    assert not found[0].exists() and not (tmp_path.parent / "out.png").exists()
    assert store.names() == ["evil", "harbor", "out"]
    assert Protected(tmp_path / "p").names() == store.names(), "it is there when the page is started again"


def test_of_a_folder_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("x")
    with pictures_of([notes, saved(tmp_path, 2, "b.png"), saved(tmp_path, 1, "a.png")], folder=True) as found:
        assert [file.name for file in found] == ["a.png", "b.png"]
    with pictures_of([notes]) as found:
        assert found == [notes], "a file that was chosen is refused where pictures are read, by its name"


def test_what_cant_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 not really")
    picture = saved(tmp_path, 1).read_bytes()
    cases = [
        ([broken], "can't be read as a .zip archive"),
        ([zipped(tmp_path, a_DOT_txt=b"x")], "There are no pictures"),
    ]
    for files, says in cases:
        with pytest.raises(GalleryError, match=says), pictures_of(files):
            pass
    path = zipped(tmp_path, a_DOT_png=picture, b_DOT_png=picture)
    for name, most, says in (
        ("MOST_IN_ARCHIVE", 1, "holds 2 pictures; at most 1"),
        ("LARGEST", 10, "a.png has"),
        ("MOST_UNPACKED", len(picture), "unpacks to more than"),
    ):
        with monkeypatch.context() as patch, pytest.raises(GalleryError, match=says):
            patch.setattr(uploads, name, most)
            with pictures_of([path]):
                pass
