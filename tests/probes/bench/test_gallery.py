"""The gallery's bench: what is kept goes on, variants are no others, and the table counts misses."""

import json

import numpy as np
import pytest
from PIL import Image

from probes.bench.gallery import _kept, bench_gallery, looked_up, table
from probes.bench.gallery_edits import EDITS
from probes.bench.gallery_pictures import clip_art, fresh, protected
from shield import Gallery
from shield.errors import BadRequestError


def squares(seed: int) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((128, 128), Image.Resampling.NEAREST)


def test_variants_of_protected_clip_art_are_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.bench.gallery_pictures.ART", 1)
    names = ["stars/star_87pt", "stars/star_92pt", "stars/moon_1", "suns/star_1"]
    for seed, name in enumerate(names):
        file = tmp_path / "openclipart" / "png" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        squares(seed).save(file)
    (held,) = [name for name, _ in protected(tmp_path)["clip art (openclipart-png)"]]
    others = {name for name, _ in clip_art(tmp_path)}
    variants = {"stars/star_87pt", "stars/star_92pt"} if held in ("stars/star_87pt", "stars/star_92pt") else {held}
    assert others == set(names) - variants


def test_a_look_up_says_what_each_descriptor_found_and_is_kept(tmp_path):
    gallery = Gallery(descriptors=["pixels", "local", "dense"])
    gallery.add([(f"w-{seed}", squares(seed)) for seed in range(6)])
    beside = [squares(100 + n) for n in range(3)]
    row = looked_up(gallery, EDITS["2 x 2 collage"](squares(3), beside), "w-3", 3, "w-3")
    assert (row["half"], row["hits"]["pixels"], row["hits"]["together"]) == ("held-out", False, True)
    assert looked_up(gallery, squares(3), "w-2", 2, "w-2")["hits"]["together"] is False
    assert looked_up(gallery, fresh(0)[1], "fresh-0", 0, None)["hits"]["together"] is False
    file, asked = tmp_path / "part.json", []
    for _ in range(2):
        assert _kept(file, lambda: asked.append(1) or [row]) == json.loads(json.dumps([row]))
    assert asked == [1]


def test_the_table_counts_what_is_missed():
    def rate(count: int, n: int) -> dict:
        return {name: {"count": count, "n": n, "low": 0.0, "high": 0.036} for name in ("pixels", "together")}

    lines = table(
        {
            "descriptors": ["pixels"],
            "found": {"mirror": {"dev": rate(9, 10), "held-out": rate(7, 10)}},
            "false_hits": {"dev": rate(2, 50), "held-out": rate(1, 40)},
            "milliseconds": {"pixels": 5.0},
        }
    ).splitlines()
    assert lines[2] == "| missed of 10: mirror | 3 | 3 | 1 of 10 |"
    assert lines[3] == "| copies among 40 others | 1 (up to 3.60%) | 1 (up to 3.60%) | 2 of 50 |"


@pytest.mark.slow
def test_a_larger_measurement_goes_on_where_a_smaller_one_ended(tmp_path):
    said = {"parts": tmp_path / "parts", "share": tmp_path}
    bench_gallery(tmp_path, queries=1, others=2, **said)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*.json")}
    found = bench_gallery(tmp_path, queries=1, others=3, **said)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert found["others"] == 3 and set(found["found"]) == set(EDITS)
    with pytest.raises(BadRequestError, match="0 protected"):
        bench_gallery(tmp_path, queries=0, **said)
