"""Traps: p-values against hand arithmetic and enumeration, folders that can be made again and not guessed, a trial."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import mannwhitneyu
from typer.testing import CliRunner

from probes.attacks import AdversarialEmbedding
from probes.cli.main import app
from probes.errors import RunError, TrapError
from probes.inputs.prompts import read_prompts
from probes.report.html import write_report
from probes.runs.folder import Run
from probes.traps.folder import read_traps, shipped_traps
from probes.traps.make import CAPTION_BITS, Ladder, assigned, caption_of, make, picture_of
from probes.traps.ranks import rank_p, single_p
from probes.traps.trial import Measure, compared, trial
from probes.types import Subject
from tests.probes.exact import bits
from tests.probes.tiny_testbed import tiny_testbed
from tests.tiny import tiny_sd

SMALL = Ladder(count=2, copies=(1, 3), held_back=4, size=64)
QUICK = Measure(draws=2, attack=AdversarialEmbedding(steps=1, batch=1), chunk=3)


@pytest.mark.parametrize(
    "used, held_back, p",
    [
        ([1], [2, 3], 1 / 3),
        ([3], [1, 2], 1),
        ([1, 2], [3, 4, 5], 1 / 10),
        ([1, 3], [2, 4, 5], 2 / 10),
        ([1, 1], [1, 2], 3 / 6),
        ([5, 5], [5, 5, 5], 1),
    ],
)
def test_rank_p_by_hand(used, held_back, p):
    """Of C(n + m, n) sets of midranks, those whose sum isn't above that of the used ones."""
    assert rank_p(used, held_back) == pytest.approx(p)


def test_single_p_by_hand():
    assert single_p(0, [1, 2, 3]) == 1 / 4
    assert single_p(2, [1, 2, 3]) == 3 / 4
    assert single_p(9, [1, 2, 3]) == 1


values = st.lists(st.integers(0, 6), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(values, values)
def test_rank_p_is_that_of_all_sets(used, held_back):
    from scipy.stats import rankdata

    ranks = rankdata([*used, *held_back])
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(used))]
    assert rank_p(used, held_back) == pytest.approx(np.mean(np.array(sums) <= sum(ranks[: len(used)])))


def test_without_ties_it_is_wilcoxons_test():
    draw = np.random.default_rng(0)
    one, other = draw.normal(-0.3, 1, 16), draw.normal(0, 1, 72)
    assert rank_p(one, other) == pytest.approx(mannwhitneyu(one, other, alternative="less", method="exact").pvalue)
    assert rank_p(one, other, exact=0) == pytest.approx(rank_p(one, other), abs=0.01)
    assert rank_p([0] * 3, [1] * 300) == 1 / 20_001


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=8), st.integers(1, 3))
def test_p_is_valid_whatever_the_values(pooled, n):
    """Over every way to hold values back, p <= a happens in at most the share a of them: exactly, ties included."""
    places = range(len(pooled))
    found = [
        rank_p([pooled[i] for i in chosen], [pooled[i] for i in places if i not in chosen])
        for chosen in itertools.combinations(places, n)
    ]
    assert all(np.mean(np.array(found) <= p + 1e-12) <= p + 1e-12 for p in found)


def test_p_is_uniform_where_nothing_was_seen():
    draw = np.random.default_rng(1)
    found = np.array([rank_p(row[:8], row[8:]) for row in draw.normal(size=(2000, 32))])
    for level in (0.01, 0.05, 0.1, 0.5):
        assert abs((found <= level).mean() - level) < 4 * (level * (1 - level) / 2000) ** 0.5 + 1e-3


@pytest.mark.parametrize("used, held_back", [([], [1]), ([1], []), ([float("nan")], [1])])
def test_values_that_have_no_rank(used, held_back):
    with pytest.raises(ValueError, match="rank test needs"):
        rank_p(used, held_back)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_gives_the_same_folder_to_the_byte(tmp_path):
    made = [
        make(tmp_path / name, SMALL, seed=seed, show_progress=False) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b and made[0]["sha256"] == made[1]["sha256"] != made[2]["sha256"] and made[0]["guessable"]
    pictures = [{content for name, content in folder.items() if name.endswith(".png")} for folder in (a, c)]
    assert len(pictures[0]) == SMALL.total == 8 and not pictures[0] & pictures[1]


def test_the_ladder_is_a_data_set_in_copies(tmp_path):
    make(tmp_path / "t", SMALL, seed=7, show_progress=False)
    rows = [json.loads(line) for line in (tmp_path / "t/used/metadata.jsonl").read_text().splitlines()]
    assert sorted(sum(row["trap"] == name for row in rows) for name in {row["trap"] for row in rows}) == [1, 1, 3, 3]
    targets = read_prompts(tmp_path / "t" / "used")
    assert len(targets) == 8 and all(target.reference is not None for target in targets)
    assert Image.open(targets[0].reference).size == (64, 64)
    known = read_traps(tmp_path / "t")
    assert known.rungs == [1, 3] and known.held_back == 4 and len(known.traps) == 8
    assert not {t.caption for t in known.traps if t.copies is None} & {t.prompt for t in targets}
    line = (tmp_path / "t/manifest.sha256").read_text()
    assert line == f"{known.sha256}  manifest.json\n"


def test_without_the_number_nothing_can_be_guessed(tmp_path):
    """128 bits decide all; any other number, one bit apart, gives no caption, picture or split of this one."""
    assert CAPTION_BITS > 64
    seed = 0x1234 << 100
    captions = {caption_of(seed, number) for number in range(3000)}
    assert len(captions) == 3000
    for bit in (0, 63, 127):
        assert not captions & {caption_of(seed ^ 1 << bit, number) for number in range(300)}
        assert picture_of(seed, 0, 64).tobytes() != picture_of(seed ^ 1 << bit, 0, 64).tobytes()
    assert assigned(Ladder(), seed) != assigned(Ladder(), seed + 1)
    one, other = (make(tmp_path / name, SMALL, show_progress=False) for name in "ab")
    seeds = [int(json.loads((tmp_path / name / "manifest.json").read_text())["seed"]) for name in "ab"]
    assert one["sha256"] != other["sha256"] and min(seeds) > 1 << 64 and not one["guessable"]


def test_every_trap_is_held_back_as_often_as_the_next():
    """The split is drawn: over many numbers no place is preferred."""
    held = np.mean([[rung is None for rung in assigned(SMALL, seed)] for seed in range(1500)], axis=0)
    assert np.abs(held - 0.5).max() < 4 * (0.25 / 1500) ** 0.5


@pytest.mark.parametrize(
    "options, says",
    [
        ({"count": 0}, "1 or more"),
        ({"copies": ()}, "none and"),
        ({"copies": (1, 0)}, "1 or more"),
        ({"copies": (2, 2)}, "given twice"),
        ({"held_back": 0}, "held back"),
        ({"size": 9}, "not 9"),
    ],
)
def test_ladders_that_cant_be_made(options, says):
    with pytest.raises(TrapError, match=says):
        Ladder(**options)


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "traps", SMALL, seed=7, show_progress=False)
    return tmp_path / "traps"


def changed(folder, change):
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda f: (f / "manifest.json").unlink(), "no folder of traps"),
        (lambda f: (f / "manifest.json").write_text("{"), "can't be read"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "can't be read"),
        (lambda f: (f / "manifest.json").write_text('{"format": 9}'), "isn't a manifest"),
        (lambda f: min((f / "used").glob("*.png")).unlink(), "is not there"),
        (lambda f: next((f / "held_back").glob("*.png")).write_bytes(b"x"), "not the one that was made"),
        (lambda f: changed(f, lambda d: d["traps"][0].pop("caption")), "entry without"),
        (lambda f: changed(f, lambda d: d["traps"].append(d["traps"][0])), "twice"),
        (lambda f: changed(f, lambda d: d["traps"][0].update(copies=-1)), "-1 copies"),
        (lambda f: changed(f, lambda d: d.update(traps=[t for t in d["traps"] if t["copies"]])), "held back"),
        (lambda f: changed(f, lambda d: d["traps"][0].update(file="a\0b")), "can't be read|not there"),
    ],
)
def test_bad_folders_are_one_sentence(folder, spoil, says, tmp_path):
    spoil(folder)
    with pytest.raises(TrapError, match=says) as caught:
        read_traps(folder)
    assert "\n" not in str(caught.value)
    done = CliRunner().invoke(app, ["traps", "test", "testbed", "--traps", str(folder), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_traps_are_never_written_over(folder):
    before = files(folder)
    with pytest.raises(TrapError, match="isn't empty"):
        make(folder, SMALL, seed=8, show_progress=False)
    with pytest.raises(TrapError, match="bits and no sign"):
        make(folder.parent / "new", SMALL, seed=-1, show_progress=False)
    assert files(folder) == before and not (folder.parent / "new").exists()


def test_a_trial_leaves_the_model_alone_and_can_be_resumed(folder, tmp_path):
    tiny_sd().save_pretrained(tmp_path / "model")
    options = {"traps": folder, "measure": QUICK, "device": "cpu", "show_progress": False}
    whole = trial(str(tmp_path / "model"), tmp_path / "whole", **options)
    assert [(row["copies"], row["n"]) for row in whole.summary["rungs"]] == [("1", 2), ("3", 2), ("all", 4)]
    assert all(0 < row[name]["p"] <= 1 for row in whole.summary["rungs"] for name in ("loss", "attacked"))
    assert all(row["both"] == min(1, 2 * min(row["loss"]["p"], row["attacked"]["p"])) for row in whole.summary["rungs"])
    trial(str(tmp_path / "model"), tmp_path / "cut", **options)
    lines = (tmp_path / "cut/records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut/records.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    with pytest.raises(RunError, match="summary.json"):
        write_report(tmp_path / "whole")
    again = trial(str(tmp_path / "model"), tmp_path / "cut", resume=True, **options)
    assert list(Run.open(tmp_path / "cut").records()) == list(Run.open(tmp_path / "whole").records())
    assert again.summary == whole.summary
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + " ")
    with pytest.raises(RunError, match="another configuration"):
        trial(str(tmp_path / "model"), tmp_path / "cut", resume=True, **options)


def test_scores_dont_depend_on_neighbors(folder):
    subject, traps = Subject(tiny_sd(), "tiny"), read_traps(folder).traps[:3]
    before = bits(subject.denoiser)
    together, alone = QUICK.losses(subject, traps), [QUICK.losses(subject, [trap])[0] for trap in traps]
    assert bits(subject.denoiser) == before
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert all(one["loss"] != one["attacked"] for one in together)


def test_the_testbeds_own_works(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tiny_testbed(tmp_path / "weights")))
    known = shipped_traps()
    assert known.rungs == [0, 6, 96, 384] and known.held_back == 8
    with pytest.raises(TrapError, match="--traps"):
        trial("owner/name", tmp_path / "run")
    done = trial("testbed-clean", tmp_path / "run", measure=QUICK, device="cpu", show_progress=False)
    assert [(row["copies"], row["n"]) for row in done.summary["rungs"]] == [
        ("0", 3),
        ("6", 3),
        ("96", 3),
        ("384", 3),
        ("all", 9),
    ]


def test_a_row_by_hand():
    records = [
        {"copies": copies, "scores": {"loss": loss, "attacked": -loss}}
        for copies, loss in ((5, 1.0), (5, 2.0), (None, 3.0), (None, 4.0))
    ]
    row, every = compared(records)
    assert row["loss"] == {"p": 1 / 6, "auroc": 1.0, "alone": 0, "mean": 1.5, "mean_held_back": 3.5}
    assert row["attacked"]["p"] == 1 and row["both"] == 1 / 3 and every == {**row, "copies": "all"}


@pytest.mark.slow
def test_the_shipped_models():
    """The top rung is recognized by every loss, on the model that saw it and not on its twin."""
    from shield.model.loading import load

    known = shipped_traps()
    used = [trap for trap in known.traps if trap.copies == known.rungs[-1]][:8]
    held = [trap for trap in known.traps if trap.copies is None][:8]
    measure = Measure(draws=8, attack=AdversarialEmbedding(steps=1, batch=2))
    found = {}
    for model in ("testbed", "testbed-clean"):
        subject = Subject(load(model, device="cpu"), model)
        ours, theirs = (measure.losses(subject, traps) for traps in (used, held))
        found[model] = [rank_p([row[name] for row in ours], [row[name] for row in theirs]) for name in ours[0]]
    assert max(found["testbed"]) == pytest.approx(1 / 12870) and min(found["testbed-clean"]) > 0.01


def test_no_gradient_is_left(folder):
    subject = Subject(tiny_sd(), "tiny")
    QUICK.losses(subject, read_traps(folder).traps[:2])
    assert all(p.grad is None and p.requires_grad for p in subject.denoiser.parameters())
    assert torch.is_grad_enabled()
