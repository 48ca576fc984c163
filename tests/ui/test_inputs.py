"""What visitors upload to be scanned or audited: kept together, and nothing of the machine is read through it."""

import csv
import zipfile
from pathlib import Path

import pytest

from probes.errors import PromptFileError
from probes.inputs.prompts import read_prompts
from shield.errors import GalleryError
from tests.ui.pictures import saved
from ui.inputs import Inputs


def table(path: Path, *rows: tuple[str, str]) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([("prompt", "picture"), *rows])
    return path


def test_a_table_and_its_pictures_stay_together(tmp_path: Path) -> None:
    pictures = [saved(tmp_path, 1), saved(tmp_path, 2)]
    file = table(tmp_path / "mine.csv", ("a cat", "1.png"), ("a dog", "2.png"), ("a tree", ""))
    inputs = Inputs(tmp_path / "runs")
    kept, count = inputs.keep([*pictures, file])
    assert count == 3 and inputs.holds(kept) and not inputs.holds(file)
    found = read_prompts(kept)
    assert [one.reference and one.reference.name for one in found] == ["1.png", "2.png", None]
    assert all(one.reference is None or one.reference.is_relative_to(inputs.folder.resolve()) for one in found)
    assert inputs.keep([file, *pictures])[0] == kept, "the same upload is kept once"
    assert len(list(inputs.folder.iterdir())) == 1


def test_pictures_alone_are_named_by_their_prompts(tmp_path: Path) -> None:
    kept, count = Inputs(tmp_path / "runs").keep(
        [saved(tmp_path, 1, "a_lone lamp.png"), saved(tmp_path, 2, "moons.jpg")]
    )
    assert count == 2
    assert [(one.prompt, one.reference.name) for one in read_prompts(kept)] == [
        ("a lone lamp", "a_lone lamp.png"),
        ("moons", "moons.jpg"),
    ]


def test_an_archive_keeps_its_folders(tmp_path: Path) -> None:
    file = table(tmp_path / "metadata.csv", ("a cat", "deep/1.png"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.write(file, "set/metadata.csv")
        packed.write(saved(tmp_path, 1), "set/deep/1.png")
        packed.writestr("set/.hidden.csv", "no")
        packed.writestr("readme.md", "no")
    kept, count = Inputs(tmp_path / "runs").keep([tmp_path / "set.zip"])
    assert count == 1 and read_prompts(kept)[0].reference.name == "1.png"


@pytest.mark.parametrize("name", ["../secret.png", "{absolute}", "../../secret.png"])
def test_a_picture_outside_of_the_upload_is_refused(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    secret = saved(tmp_path, 7, "secret.png")
    for place in (runs / ".inputs", runs):
        place.mkdir(parents=True, exist_ok=True)
        saved(place, 7, "secret.png")
    file = table(tmp_path / "mine.csv", ("a cat", name.format(absolute=secret)))
    with pytest.raises(PromptFileError, match=r"wasn't uploaded with it, beside prompt-000001"):
        Inputs(runs).keep([file])
    assert [path.name for path in (runs / ".inputs").iterdir()] == ["secret.png"], "nothing is left"


def test_names_in_an_archive_lead_nowhere_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr("../../evil.txt", "a cat\n")
        packed.writestr("/evil.csv", "prompt\na cat\n")
        packed.writestr("good.txt", "a dog\n")
    kept, count = Inputs(tmp_path / "runs").keep([tmp_path / "evil.zip"])
    assert count == 1 and kept.name == "good.txt" and not list(tmp_path.glob("**/evil.txt"))


def test_what_cant_be_used_is_one_sentence(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "runs")
    one, two = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("a cat\n")
    two.write_text("\n")
    broken = tmp_path / "broken.png"
    broken.write_bytes(saved(tmp_path, 1).read_bytes()[:120])
    (tmp_path / "no.zip").write_text("no archive")
    for files, error, said in (
        ([], PromptFileError, "A prompt file is needed"),
        ([one, two], PromptFileError, "One prompt file is needed; a.txt, b.txt were given"),
        ([two], PromptFileError, "holds no prompt"),
        ([one, broken], GalleryError, "broken.png can't be read"),
        ([tmp_path / "no.zip"], GalleryError, "can't be read as a .zip archive"),
        ([Path(__file__)], PromptFileError, "test_inputs.py is none of"),
    ):
        with pytest.raises(error, match=said):
            inputs.keep(files)
    assert list(inputs.folder.iterdir()) == []
