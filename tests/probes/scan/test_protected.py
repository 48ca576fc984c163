"""What of a scan is protected: names in prompts, and pictures like a gallery's, listed beside the scores."""

import csv
import json

import pytest
from PIL import Image

from probes.report.html import write_report
from probes.runs.folder import Run
from probes.scan.merge import merge
from probes.scan.scan import format_scan
from probes.scan.shards import Shard
from shield.errors import BadRequestError, GalleryError
from shield.protected.gallery import Gallery
from tests.probes.scan.test_flagged import run

pytestmark = pytest.mark.usefixtures("shipped")

PROMPTS = ["Bolto on a hill", "the cat", "Mickey Mouse, bolto"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return path


def rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_prompts_that_name_a_concept_are_listed_also_by_merged_shards(prompts, tmp_path):
    whole = run(prompts, tmp_path / "whole", concepts=["Bolto"])
    assert [row["concepts"] for row in rows(whole.folder / "named.csv")] == ["Bolto", "Bolto"]
    assert whole.summary["named"]["named"] == 2 and whole.summary["named"]["prompts"] == 3
    assert "2 of 3 prompts name a protected concept (Bolto): named.csv" in format_scan(whole.summary)
    parts = [tmp_path / f"part-{n}" for n in (0, 1)]
    for n, part in enumerate(parts):
        run(prompts, part, concepts=["Bolto"], shard=Shard(n, 2))
    assert merge(parts, tmp_path / "merged").summary["named"] == whole.summary["named"]
    shipped = run(prompts, tmp_path / "shipped")
    assert [row["concepts"] for row in rows(shipped.folder / "named.csv")] == ["Mickey Mouse"]
    page = write_report(whole.folder).read_text(encoding="utf-8")
    assert "Protected names in prompts" in page and "Bolto on a hill" in page


def test_pictures_are_compared_with_a_gallery_that_is_read_once(prompts, tmp_path, monkeypatch):
    first = run(prompts, tmp_path / "first", pictures=True)
    record = next(r for r in Run.open(first.folder).records() if r["prompt"] == "the cat")
    protected = tmp_path / "protected"
    protected.mkdir()
    with Image.open(first.folder / record["picture"]) as drawn:
        drawn.save(protected / "ours.png")
    read, whole = [], Gallery.from_folder
    monkeypatch.setattr(Gallery, "from_folder", lambda folder, *args: read.append(folder) or whole(folder, *args))
    second = run(prompts, tmp_path / "second", pictures=True, gallery=str(protected))
    assert read == [protected]
    found = second.summary["protected_pictures"]
    assert found["pictures"] == 3 and found["works"] == 1 and found["copy"] >= 1
    listed = rows(second.folder / "gallery.csv")
    assert ("the cat", "copy", "ours") in [(row["prompt"], row["closeness"], row["work"]) for row in listed]
    assert any("protected works" in line and "gallery.csv" in line for line in format_scan(second.summary))
    assert "Pictures like protected ones" in write_report(second.folder).read_text(encoding="utf-8")
    assert json.loads((second.folder / "summary.json").read_text())["protected_pictures"] == found


def test_what_is_protected_is_read_before_anything_is_scored(prompts, tmp_path):
    with pytest.raises(BadRequestError, match="add --pictures"):
        run(prompts, tmp_path / "none", gallery=str(tmp_path))
    with pytest.raises(GalleryError, match="no folder"):
        run(prompts, tmp_path / "none", gallery=str(tmp_path / "nowhere"), pictures=True)
    assert not (tmp_path / "none").exists()
