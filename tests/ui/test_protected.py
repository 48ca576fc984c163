"""What visitors may change: all or nothing, saved at once, and no name of theirs is ever a path."""

import json
import struct
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shield.errors import BadRequestError, GalleryError, RegistryError, ShieldError
from shield.protected.concepts import Concept, Concepts
from tests.tiny_families import tiny_picture
from tests.ui.pictures import picture, saved
from ui import protected
from ui.app import page_of
from ui.protected import Protected, as_toml, checked_concept, checked_picture

BOLTO = Concept("Bolto", aliases=("little bolto",), descriptions=("the red robot",), substitute="a robot")


def state(folder: Path) -> dict[str, bytes]:
    """Everything but the features, which can be made again."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "features"
    }


def test_a_new_folder_is_filled_once(tmp_path: Path) -> None:
    work = saved(tmp_path, 1)
    store = Protected(tmp_path / "p", [BOLTO], [("a work", work)])
    assert store.concepts.found("a BOLTO")[0].concept == "Bolto" and store.names() == ["a work"]
    store.remove_work("a work")
    store.remove_concept("Bolto")
    again = Protected(tmp_path / "p", [BOLTO], [("a work", work)])
    assert again.names() == [] and again.concepts.concepts == (), "what was removed must not come back"
    assert again.gallery.nearest(picture(1)) is None


def test_changes_of_concepts_hold_at_once_and_after_a_restart(tmp_path: Path) -> None:
    store = Protected(tmp_path, [BOLTO])
    store.save_concept(Concept("  Wom  pa ", aliases=("", "the monster", "the monster")))
    store.save_concept(Concept("Bolto II", kind="brand"), replaces="Bolto")
    for seen in (store, Protected(tmp_path)):
        assert [c.name for c in seen.concepts.concepts] == ["Bolto II", "Wom pa"]
        assert seen.concept("Wom pa").aliases == ("the monster",)
        assert seen.concepts.found("the monster")[0].how == "alias"


@pytest.mark.parametrize(
    "concept, says",
    [
        (Concept(" "), "needs a name"),
        (Concept("x" * 121), "at most 120"),
        (Concept("a\x00b"), "printable"),
        (Concept("..."), "without letters"),
        (Concept("Other", aliases=("bolto",)), "stands for both"),
        (Concept("Bolto"), "stands for both"),
        (Concept("Zed", kind="alien"), "kind is one of"),
        (Concept("Zed", aliases=tuple(f"a{n}" for n in range(51))), "at most 50 aliases"),
        (Concept("Zed", descriptions=("x" * 241,)), "characters each"),
    ],
)
def test_a_concept_that_cant_be_used_changes_nothing(concept: Concept, says: str, tmp_path: Path) -> None:
    store = Protected(tmp_path, [BOLTO])
    before = state(tmp_path)
    with pytest.raises(RegistryError, match=says):
        store.save_concept(concept)
    assert state(tmp_path) == before and store.concepts.concepts == (BOLTO,)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    store = Protected(tmp_path, [BOLTO])
    for change in (
        lambda: store.remove_concept("x"),
        lambda: store.save_concept(Concept("y"), replaces="x"),
        lambda: store.remove_work("x"),
        lambda: store.rename_work("x", "y"),
        lambda: store.add_pictures("x", []),
    ):
        with pytest.raises(ShieldError):
            change()


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30), min_size=3, max_size=3), st.text(max_size=20))
def test_any_text_survives_the_registry_file(texts: list[str], substitute: str) -> None:
    try:
        concept = checked_concept(Concept(texts[0], "style", (texts[1],), (texts[2],), substitute))
    except RegistryError:
        return
    (read,) = tomllib.loads(as_toml([concept]))["concept"]
    assert read == {key: list(v) if isinstance(v, tuple) else v for key, v in vars(concept).items() if v}


def test_pictures_are_protected_at_once_and_after_a_restart(tmp_path: Path) -> None:
    store = Protected(tmp_path / "p")
    held = store.gallery
    assert store.add_pictures("../../evil <b>", [saved(tmp_path, 1), saved(tmp_path, 2, "b.webp")]) == 2
    assert len(held) == 0, "a picture that is being drawn keeps the gallery it began with"
    for seen in (store, Protected(tmp_path / "p")):
        found = seen.gallery.nearest(picture(1))
        assert found is not None and found.copied and found.work == "../../evil <b>"
        assert seen.picture(found.work).parent == tmp_path / "p" / "pictures"
    assert {path.parent.name for path in (tmp_path / "p").rglob("*.png")} == {"pictures"}
    store.rename_work("../../evil <b>", "tame")
    assert store.gallery.nearest(picture(2)).work == "tame"
    assert store.remove_work("tame") == 2 and store.gallery.nearest(picture(1)) is None
    assert list((tmp_path / "p" / "pictures").iterdir()) == []


def test_what_a_file_holds_beside_its_pixels_is_left_out(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("secret", "my address")
    picture(3).save(tmp_path / "a.png", pnginfo=about)
    with open(tmp_path / "a.png", "ab") as file:
        file.write(b"<script>secret</script>")
    store = Protected(tmp_path / "p")
    store.add_pictures("w", [tmp_path / "a.png"])
    kept = store.picture("w")
    assert b"secret" not in kept.read_bytes() and Image.open(kept).tobytes() == picture(3).tobytes()


def huge_png(path: Path, side: int) -> Path:
    """Says that it is side x side pixels large, in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    return path


def test_bad_files_are_refused_with_a_sentence_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, torn, text = saved(tmp_path, 1), tmp_path / "torn.png", tmp_path / "text.png"
    torn.write_bytes(good.read_bytes()[:100])
    text.write_text("<svg onload=alert(1)>")
    flat, other = tmp_path / "flat.png", tmp_path / "other.gif"
    Image.new("RGB", (32, 32), "red").save(flat)
    picture(2).save(other)
    bomb = huge_png(tmp_path / "bomb.png", 30_000)
    store = Protected(tmp_path / "p")
    before = state(tmp_path / "p")
    for bad, says in (
        (torn, "torn.png can't be read"),
        (text, "text.png can't be read"),
        (flat, "one flat color"),
        (other, "PNG, JPEG or WEBP"),
        (bomb, "bomb.png"),
        (tmp_path / "gone.png", "can't be read"),
    ):
        with pytest.raises(GalleryError, match=says):
            store.add_pictures("w", [good, bad])
    monkeypatch.setattr(protected, "LARGEST", 50)
    with pytest.raises(GalleryError, match="a picture may have"):
        checked_picture(good)
    assert state(tmp_path / "p") == before and store.works == []


def test_what_is_added_at_once_has_a_size_that_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [saved(tmp_path, number) for number in range(4)]
    monkeypatch.setattr(protected, "MOST_TOGETHER", 3 * 64 * 64)
    monkeypatch.setattr(protected, "MOST_PICTURES", 6)
    store = Protected(tmp_path / "p")
    before = state(tmp_path / "p")
    with monkeypatch.context() as patch:
        patch.setattr(protected, "checked_picture", lambda file: pytest.fail("it was decoded"))
        with pytest.raises(GalleryError, match="4 pictures have 0 million pixels together"):
            store.add_pictures("w", files)
    assert state(tmp_path / "p") == before
    assert store.add_pictures("w", files[:3]) == 3 and store.add_pictures("w", files[1:4]) == 3
    with pytest.raises(GalleryError, match="takes 0 more"):
        store.add_pictures("w", files[:1])


def test_large_pictures_cost_little_more_than_one_of_them(tmp_path: Path) -> None:
    """Each of 12 million pixels, 36 MB of RGB: in a process of its own, since a peak never falls."""
    large = Image.new("RGB", (4000, 3000), "red")
    large.paste("blue", (0, 0, 2000, 2000))
    large.save(tmp_path / "large.png")
    code = (
        "import resource, sys; from pathlib import Path; from ui.protected import Protected\n"
        "import faiss, pdqhash, PIL.ImageCms\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "store, before = Protected(Path(sys.argv[1]) / 'p'), peak()\n"
        "store.add_pictures('w', [Path(sys.argv[1]) / 'large.png'] * 10); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400, f"{done.stdout.strip()} MB"


def test_an_animation_is_no_picture(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.webp", save_all=True, append_images=[picture(2)])
    with pytest.raises(GalleryError, match="animation of 2 frames"):
        Protected(tmp_path / "p").add_pictures("w", [tmp_path / "a.webp"])


def test_damaged_or_hostile_lists_are_refused(tmp_path: Path) -> None:
    Protected(tmp_path)
    for text, says in (
        ("{", "isn't a list"),
        ('[{"work": 1}]', "isn't a list"),
        ('[{"work": "w", "file": "../../etc/passwd"}]', "outside of its folder"),
    ):
        (tmp_path / "works.json").write_text(text)
        with pytest.raises(GalleryError, match=says):
            Protected(tmp_path)


def test_features_of_other_pictures_are_made_again(tmp_path: Path) -> None:
    """As after a crash between the list and the features."""
    store = Protected(tmp_path / "p")
    store.add_pictures("w", [saved(tmp_path, 1)])
    works = json.loads((tmp_path / "p" / "works.json").read_text())
    other = store._stored(saved(tmp_path, 2).read_bytes())
    (tmp_path / "p" / "works.json").write_text(json.dumps([{**works[0], "file": other}]))
    assert Protected(tmp_path / "p").gallery.nearest(picture(2)).copied


def test_an_emptied_registry_can_be_read(tmp_path: Path) -> None:
    Protected(tmp_path, [BOLTO]).remove_concept("Bolto")
    assert Protected(tmp_path).concepts.found("bolto") == []
    assert Concepts(()).found("bolto") == []


def test_a_page_begins_with_the_names_and_pictures_that_it_is_given(tmp_path):
    """A folder that holds what visitors made is never filled a second time."""
    (tmp_path / "works").mkdir()
    tiny_picture(1).save(tmp_path / "works" / "mine.png")
    given = {"concepts": ["Bolto"], "gallery": tmp_path / "works", "thresholds": tmp_path}
    page = page_of("testbed", tmp_path / "runs", tmp_path / "p", "cpu", **given)
    assert [c.name for c in page.protected.concepts.concepts] == ["Bolto"] and page.thresholds == []
    assert page.protected.names() == ["mine"] and page.protected.gallery.nearest(tiny_picture(1)).copied
    page.close()
    for name in ("concepts", "gallery"):
        with pytest.raises(BadRequestError, match="holds what is protected already .* --protected"):
            page_of("testbed", tmp_path / "runs", tmp_path / "p", "cpu", **{name: given[name]})
