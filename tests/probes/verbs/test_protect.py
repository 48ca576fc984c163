import json

import pytest
from typer.testing import CliRunner

from probes.cli.main import app
from probes.testbed.drawing.characters import RESERVED
from probes.verbs import calibrate_protected as protect
from probes.verbs.calibrate_protected import described_in_short, neighbor_captions, works_gallery
from probes.verbs.screens import checked, format_screens, groups
from shield.benign.prompts import benign_prompts
from shield.protected.gallery import Gallery
from shield.protected.given import gallery_at
from shield.protected.meaning import Meaning, found_limit
from shield.thresholds import load_thresholds
from tests.probes.tiny_testbed import tiny_testbed
from tests.shield.protected.test_gallery import picture


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def works(tmp_path):
    for name, first, count in (("works", 0, 3), ("others", 100, 20)):
        (tmp_path / name).mkdir()
        for i in range(count):
            picture(first + i).save(tmp_path / name / f"{name}-{i}.png")
    return tmp_path


def test_neighbors_are_none_of_the_characters_and_the_splits_share_no_kind():
    dev, heldout = neighbor_captions("dev"), neighbor_captions("heldout")
    kinds = [{tuple(c.split(" on ")[0].split(" and ")[0].split(" ", 3)) for c in part} for part in (dev, heldout)]
    assert len(dev) > 99 and len(heldout) > 99 and not kinds[0] & kinds[1]
    assert not {(kind, color, legs.removeprefix("with ")) for part in kinds for _, color, kind, legs in part} & RESERVED


def test_the_testbeds_characters_are_concepts():
    concepts = protect.testbed_concepts("heldout").concepts
    assert 0 < len(concepts) < len(protect.testbed_concepts().concepts)
    for concept in concepts:
        assert concept.substitute in ("a robot", "a monster") and concept.name in concept.aliases[0]
        assert concept.indirect == (described_in_short(concept.descriptions[0]),) != concept.descriptions


def test_calibrate_gallery_saves_a_gallery_that_states_its_threshold(works):
    found = run("calibrate-gallery", works / "works", works / "others", "--out", works / "g", "--fpr", 0.05, "--json")
    assert found.exit_code == 0, found.output
    said, gallery = json.loads(found.stdout), Gallery.load(works / "g")
    assert said["works"] == 3 and said["correlation"] == gallery.correlation < 0.9
    assert gallery.provenance["correlation"]["source"] == str(works / "others")
    again = run("calibrate-gallery", works / "g", works / "others", "--fpr", 0.1)
    assert again.exit_code == 0 and Gallery.load(works / "g").provenance["correlation"]["fpr"] == 0.1


def test_a_gallery_of_pictures_is_kept_in_the_users_folder_and_found_by_name(works, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    before = sorted((works / "works").rglob("*"))
    found = run("calibrate-gallery", works / "works", works / "others", "--fpr", 0.05, "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["gallery"] == str(
        tmp_path / "home" / "galleries" / "works"
    )
    assert sorted((works / "works").rglob("*")) == before and Gallery.load("works").works == (
        "works-0",
        "works-1",
        "works-2",
    )
    assert run("calibrate-gallery", "works", works / "others", "--fpr", 0.1).exit_code == 0
    assert gallery_at("works").provenance["correlation"]["fpr"] == 0.1


def test_calibrate_gallery_says_what_is_missing(works):
    few = run("calibrate-gallery", works / "works", works / "others", "--out", works / "g")
    assert few.exit_code == 2 and "at least 99 negatives" in few.stderr and not (works / "g").exists()
    assert gallery_at(works / "works").works == ("works-0", "works-1", "works-2")


def test_calibrate_concepts_writes_a_limit_that_the_screen_finds(tmp_path):
    found = run("calibrate-concepts", "--out", tmp_path, "--json")
    assert found.exit_code == 0, found.output
    limit = json.loads(found.stdout)["limit"]
    assert limit["fpr"] == 0.01 and limit["provenance"]["negatives"] == "testbed dev neighbors of the characters"
    screen = Meaning(protect.testbed_concepts(), "testbed", tmp_path)
    assert screen.limit == found_limit(screen.space, tmp_path) and screen.limit.value == limit["value"]


def test_calibrate_concepts_says_what_is_missing(tmp_path):
    registry, prompts = tmp_path / "mine.toml", tmp_path / "benign.txt"
    registry.write_text('[[concept]]\nname = "Bolto"\nindirect = ["the red robot with one wheel"]\n')
    prompts.write_text("".join(f"a {thing} on a hill\n" for thing in "cat dog tree car moon fox owl crab".split()))
    own = run("calibrate-concepts", "--registry", registry, "--out", tmp_path / "own", "--json")
    assert own.exit_code == 0 and json.loads(own.stdout)["limit"]["negatives"] == len(benign_prompts("calibration"))
    assert run("calibrate-concepts", "--registry", registry, "--check").exit_code == 2
    given = ("calibrate-concepts", "--registry", registry, "--prompts", prompts, "--out", tmp_path / "limits")
    assert "at least 99 negatives" in run(*given).stderr and not (tmp_path / "limits").exists()
    found = run(*given, "--fpr", 0.2)
    assert found.exit_code == 0 and len(list((tmp_path / "limits").iterdir())) == 1


@pytest.mark.slow  # calibrates a gallery of all works with every descriptor: minutes
def test_calibrate_watch_on_the_works_and_the_benign_prompts_of_a_testbed(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tiny_testbed(tmp_path / "weights", captions=2)))
    assert len(works_gallery()) == 12
    out = tmp_path / "made"
    found = run("calibrate-watch", "--points", "0,0.5", "--fpr", 0.2, "--steps", 3, "--out", out, "--json")
    assert found.exit_code == 0, found.output
    made = load_thresholds(out)
    assert sorted(t.options["share"] for t in made) == [0.0, 0.5] and {t.model for t in made} == {"testbed"}
    assert {t.provenance["works"] for t in made} == {12} and len(json.loads(found.stdout)) == 2
    few = run("calibrate-watch", "--points", 0, "--steps", 3, "--out", tmp_path / "none")
    assert few.exit_code == 2 and "at least 99 negatives" in few.stderr and not (tmp_path / "none").exists()
    assert "--gallery FOLDER" in run("calibrate-watch", "--model", tmp_path).stderr
    assert run("calibrate-watch", "--points", "a").exit_code == 2


@pytest.mark.slow
def test_both_screens_together_find_the_characters_and_leave_their_neighbors_alone(tmp_path):
    """Held-out characters and neighbors, at a limit from dev neighbors. Each screen alone misses a way to ask."""
    assert run("calibrate-concepts", "--out", tmp_path).exit_code == 0
    rates = checked(Meaning(protect.testbed_concepts(), "testbed", tmp_path).limit)
    heldout = {rate.group: rate for rate in rates if rate.split == "heldout"}
    for group, rate in heldout.items():
        assert rate.rates["both"] >= 0.9 if rate.protected else rate.rates["both"] <= 0.1, group
    assert heldout["descriptions in short"].rates["spelling"] < 0.5 < heldout["descriptions in short"].rates["meaning"]
    assert len(format_screens([vars(rate) for rate in rates])) == 1 + 2 * len(list(groups("dev")))
