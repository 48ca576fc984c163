"""What is protected, exported and imported as one file: all of it, or nothing and one sentence."""

import json
import zipfile
from pathlib import Path

import pytest

from shield.errors import GalleryError, RegistryError, ShieldError
from shield.protected.concepts import Concept
from tests.ui.pictures import saved
from ui.bundle import export, merge
from ui.protected import Protected

GLIM = Concept("Glimmerwick", "character", ("the lamp moth",), (), "a moth")


def filled(folder: Path) -> Protected:
    store = Protected(folder / "p", [GLIM, Concept("Bolto", "character")], [("boats", saved(folder, 1))])
    store.add_pictures("boats", [saved(folder, 2)])
    store.add_pictures("moons", [saved(folder, 2)])
    return store


def test_another_page_protects_the_same_after_an_import(tmp_path: Path) -> None:
    store = filled(tmp_path)
    file = export(store, tmp_path / "protected.zip")
    other = Protected(tmp_path / "other", [Concept("Glimmerwick", "character"), Concept("Zed", "brand")])
    assert merge(other, file) == (2, 3)
    assert other.concept("Glimmerwick") == GLIM and {c.name for c in other.concepts.concepts} == {
        "Glimmerwick",
        "Bolto",
        "Zed",
    }
    assert other.works == store.works and other.gallery.nearest(saved(tmp_path, 2)).copied
    assert merge(other, file) == (0, 0), "nothing is added twice"
    assert merge(Protected(tmp_path / "p"), file) == (0, 0)


def packed(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, data in members.items():
            made.writestr(name.replace("__", "/").replace("_", "."), data)
    return path


def test_what_cant_be_taken_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = (store.concepts, list(store.works))
    png = saved(tmp_path, 5).read_bytes()
    good = '[[concept]]\nname = "New"\n'
    (tmp_path / "no.zip").write_text("none")
    works = json.dumps([{"work": "w", "file": "a.png"}, {"work": "v", "file": "b.png"}])
    for file, error, said in (
        (tmp_path / "no.zip", GalleryError, "can't be read as a .zip archive"),
        (packed(tmp_path / "1.zip", a_txt="x"), GalleryError, "This is no exported file"),
        (packed(tmp_path / "2.zip", works_json="{}x"), GalleryError, "isn't a list of works and files"),
        (packed(tmp_path / "3.zip", works_json=works, a_png=png), GalleryError, "names 'b.png', which isn't in it"),
        (packed(tmp_path / "4.zip", concepts_toml="[[concept"), RegistryError, "^concepts.toml.*Nothing was added"),
        (
            packed(tmp_path / "5.zip", concepts_toml=good, works_json=works, a_png=png, b_png=png[:99]),
            GalleryError,
            "1.png",
        ),
        (
            packed(tmp_path / "6.zip", concepts_toml=good.replace("New", "the lamp moth"), works_json="[]"),
            RegistryError,
            "stands for both",
        ),
    ):
        with pytest.raises(error, match=said):
            merge(store, file)
        assert (store.concepts, store.works) == before, file.name
    assert len(list((store.folder / "pictures").iterdir())) == 2


def test_a_path_in_an_archive_is_only_a_name(tmp_path: Path) -> None:
    works = json.dumps([{"work": "../../evil", "file": "../../../evil.png"}])
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as made:
        made.writestr("works.json", works)
        made.writestr("../../../evil.png", saved(tmp_path, 5).read_bytes())
    store = Protected(tmp_path / "deep" / "er" / "store")
    assert merge(store, tmp_path / "evil.zip") == (0, 1)
    assert store.names() == ["../../evil"] and not list(tmp_path.rglob("evil.png"))
    assert issubclass(GalleryError, ShieldError)
