"""Who is judged by whom: splits never mix, prompts get the truth that is known."""

from pathlib import Path

from probes.inputs.cohorts import Cohorts, Sizes, cohorts_of_manifest, cohorts_of_prompts, with_suspects
from probes.inputs.prompts import PromptRecord
from probes.testbed.manifest import Item, Manifest, Scene

RUNGS = (0, 6, 24, 96)


def item(name, kind="work", rung=96, split="heldout", memorization="VM", captions=None):
    return Item(
        name,
        kind,
        memorization,
        rung,
        rung or 0,
        captions or (f"{name} caption",),
        Path(f"/{name}.png"),
        "0",
        split,
        "CC0-1.0",
        "procedural",
    )


def manifest():
    items = [
        item(f"w{rung}-{n}", rung=rung, split="heldout" if n % 3 == 0 else "dev") for rung in RUNGS for n in range(9)
    ]
    items += [item(f"n{n}", "nonmember", None, "heldout" if n % 3 == 0 else "dev", None) for n in range(9)]
    items += [item("template", memorization="TM", captions=("a mug", "a cap"))]
    scenes = [Scene(f"s{n}", "a scene", "heldout" if n % 2 else "dev") for n in range(6)]
    return Manifest(Path("."), "testbed", 128, {}, RUNGS, tuple(items), tuple(scenes))


def test_located_with_dev_judged_on_heldout():
    cohorts = cohorts_of_manifest(manifest(), Sizes(members=4, locate=5, per_rung=2, nonmembers=2, scenes=2))
    assert [t.id for t in cohorts.members] == ["w96-0", "w24-0", "w96-3", "w24-3"]
    assert len(cohorts.locate) == 5 and {t.split for t in cohorts.locate} == {"dev"}
    assert {t.rung for t in cohorts.locate} == {24, 96}
    assert {t.split for t in (*cohorts.members, *cohorts.ladder, *cohorts.nonmembers, *cohorts.scenes)} == {"heldout"}
    assert {t.rung for t in cohorts.ladder} == set(RUNGS) and len(cohorts.ladder) == 8
    assert all(t.memorization == "VM" for t in (*cohorts.members, *cohorts.locate, *cohorts.ladder))
    assert len({t.id for t in cohorts.drawn()}) == len(cohorts.drawn())


def test_a_prompt_that_is_a_caption_gets_its_truth():
    targets = [
        PromptRecord("prompt-1", "A MUG"),
        PromptRecord("prompt-2", "W96-0 Caption"),
        PromptRecord("prompt-3", "else"),
    ]
    mug, work, other = cohorts_of_prompts(targets, manifest(), Sizes()).prompts
    assert (work.id, work.kind, work.rung, work.reference) == ("prompt-2", "prompt", 96, Path("/w96-0.png"))
    assert mug.memorization == "TM" and other == targets[2]


def test_suspects_are_shared_out():
    targets = tuple(PromptRecord(f"p{n}", "x") for n in range(5))
    records = [
        {"item": "p0", "flagged": True, "copied": None},
        {"item": "p1", "flagged": False, "copied": True},
        {"item": "p3", "flagged": True, "copied": False},
        {"item": "p4", "flagged": None, "copied": None},
    ]
    cohorts = with_suspects(Cohorts(prompts=targets), records)
    assert [t.id for t in cohorts.locate] == ["p0", "p3"] and [t.id for t in cohorts.members] == ["p1"]
    alone = with_suspects(Cohorts(prompts=targets), records[:1])
    assert alone.locate == alone.members == targets[:1] and "Only one prompt" in alone.limits[0]
    assert with_suspects(Cohorts(prompts=targets), []).members == ()
    known = Cohorts(members=targets)
    assert with_suspects(known, records) is known
