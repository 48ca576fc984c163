"""Public prompt lists become an audit's prompt files; pictures come from a web server of our own."""

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from examples.public_lists import Row, halves, prepare
from probes.inputs.prompts import read_prompts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder with a picture, a cut picture and a text."""
    folder = tmp_path / "web"
    folder.mkdir()
    held = io.BytesIO()
    Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 30).convert("RGB").save(held, "JPEG")
    (folder / "whole.jpg").write_bytes(held.getvalue())
    (folder / "cut.jpg").write_bytes(held.getvalue()[:200])
    (folder / "page.jpg").write_text("<html>gone</html>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def lists(folder: Path, web: str = "http://127.0.0.1:9") -> Path:
    """NeMo's layout: an unnamed first column, semicolons."""
    folder.mkdir()
    files = ("whole.jpg", "cut.jpg", "page.jpg", "none.jpg")
    memorized = [
        f"{n};picture of the {word};{web}/{files[n % 4]};{('VM', 'TM')[n == 5]};0.8;0.9;{n}"
        for n, word in enumerate(["red barn", "blue whale", "old clock", "tin robot", "gold ring", "x"])
    ]
    others = [f"{n};{word} at night;{web}/whole.jpg;{n}" for n, word in enumerate("harbor forest city desert".split())]
    head = ";Caption;URL;type;mean_sscd;max_sscd;Index"
    (folder / "memorized_laion_prompts.csv").write_text("\n".join([head, *memorized]), encoding="utf-8")
    (folder / "unmemorized_laion_prompts.csv").write_text("\n".join([";Caption;URL;Index", *others]), encoding="utf-8")
    (folder / "coco2014_val_10.csv").write_text(
        ';Caption;URL;Index\n0;"a cat; a dog";;0\n1;a bus;;1\n', encoding="utf-8"
    )
    return folder


def test_the_files_share_no_prompt_where_they_must_not(tmp_path: Path) -> None:
    counts = prepare(lists(tmp_path / "lists"), tmp_path / "out", False)
    assert counts["memorized"] == 6 and counts["locate"] + counts["works"] == 5 and counts["pictures there"] == 0
    read = {file.stem: {t.prompt for t in read_prompts(file)} for file in (tmp_path / "out").glob("*.*")}
    assert not read["locate"] & read["works"] and not read["calibration"] & read["others"]
    assert "picture of the x" not in read["locate"] | read["works"], "a template isn't verbatim"
    assert read["nonmembers"] <= read["others"] and "a cat; a dog" in read["benign"]
    assert prepare(tmp_path / "lists", tmp_path / "again", False) == counts
    assert all((tmp_path / "again" / f.name).read_bytes() == f.read_bytes() for f in (tmp_path / "out").glob("*.csv"))


def test_pictures_are_fetched_and_broken_ones_left_out(tmp_path: Path, served: str) -> None:
    counts = prepare(lists(tmp_path / "lists", served), tmp_path / "out", True)
    targets = [t for name in ("works", "locate") for t in read_prompts(tmp_path / "out" / f"{name}.csv")]
    assert sorted(t.prompt for t in targets if t.reference) == ["picture of the gold ring", "picture of the red barn"]
    assert all(t.reference for t in read_prompts(tmp_path / "out" / "nonmembers.csv"))
    assert counts["pictures there"] == 2 + counts["others"] and not list((tmp_path / "out").rglob("*.part"))
    assert all(Image.open(file).size == (40, 30) for file in (tmp_path / "out" / "pictures").iterdir())


def test_near_duplicates_stay_on_one_side() -> None:
    words = "chair desk lamp sofa shelf mirror carpet curtain".split()
    rows = [Row(f"{word} {word[::-1]} {n}", "", "") for word in words for n in range(3)]
    one, two = halves(rows)
    assert len(one) == len(two) == 12
    assert not {row.prompt.split()[0] for row in one} & {row.prompt.split()[0] for row in two}


def test_missing_lists_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/public_lists.py", str(tmp_path), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr == (
        f"{tmp_path} needs memorized_laion_prompts.csv, unmemorized_laion_prompts.csv, coco2014_val_*.csv.\n"
    )


def test_a_list_in_another_layout_is_named(tmp_path: Path) -> None:
    folder = lists(tmp_path / "lists")
    with open(folder / "memorized_laion_prompts.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["prompt", "picture"], ["a", "b"]])
    with pytest.raises(SystemExit, match="needs the columns Caption and URL"):
        prepare(folder, tmp_path / "out", False)
