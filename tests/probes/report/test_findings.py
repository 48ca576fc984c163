"""Headline and findings, near copies and their bars, gates, two runs compared, the model card, a scan's page."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from probes.report.findings import attack
from probes.report.fold import flow
from probes.report.gates import check_gates
from probes.report.grades import Grading
from probes.report.html import read_run, sentences_of, write_report
from probes.report.sentences import attack_words
from probes.report.summary import summary_of
from probes.runs.folder import Run, record_id, write_json
from shield.errors import BadRequestError
from tests.probes.report.demo import record, stranger, work
from ui.verb import app

CRITERION = {
    "decides": "tiled_l2",
    "metrics": {"tiled_l2": {"threshold": 0.1, "nearest": 0.2, "median": 0.4, "higher_is_copy": False}},
}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def report_of(folder: Path) -> dict[str, Any]:
    write_report(folder)
    return json.loads((folder / "report.json").read_text())


def finished(folder: Path) -> Path:
    """The demo run with the summary that an audit writes, of the works that all of its stages draw."""
    run = Run.open(folder)
    members = {f"work-{n:03d}" for n in range(3)}
    records = list(run.records())
    made = summary_of(run, records, (), members=members, metric="tiled_l2", criterion={}, limits=())
    write_json(folder / "summary.json", made)
    return folder


def test_a_model_that_copies_is_said_to_memorize(folder: Path) -> None:
    report = report_of(finished(folder))
    assert report["headline"]["severity"] == "high" and "testbed memorizes: 100%" in report["headline"]["title"]
    found = {one["key"]: one for one in report["findings"]}
    assert found["shielded"]["severity"] == "good" and found["hardened"]["severity"] == "good"
    assert "6 of 6 pictures" in found["attack"]["detail"] and found["attack"]["next"].startswith("diffshield harden")
    order = [one["severity"] for one in report["findings"]]
    assert order == sorted(order, key=("high", "medium", "unknown", "low", "good").index)
    said = sentences_of(folder)
    assert said[0] == f"{report['headline']['title']}." and said[-1].startswith("Next: diffshield harden")
    page = (folder / "report.html").read_text()
    fold = page[: page.index("<h2>Findings</h2>")]
    assert fold.count('<div class="card">') == 3 and fold.count("data:image/jpeg") == 9, (
        "work, copy and shield of three"
    )


@pytest.mark.parametrize(
    "copies, pictures, severity, says",
    [(0, 100, "good", "No copies from"), (0, 3, "low", "at most"), (1, 40, "unknown", "Can't say")],
)
def test_the_verdict_follows_the_interval(tmp_path: Path, copies: int, pictures: int, severity: str, says: str) -> None:
    with Run.create(tmp_path / "run", {}, kind="scan", model={"name": "mine"}, seeds=[0]) as run:
        for n in range(pictures):
            item = {**stranger(n), "kind": "prompt", "item": f"prompt-{n}"}
            run.append(record(tmp_path / "run", "before", item, 0, n < copies))
        run.finish()
    report = report_of(tmp_path / "run")
    assert (report["headline"]["severity"], says in report["headline"]["title"]) == (severity, True), report["headline"]


def test_a_near_copy_is_neither_a_copy_nor_clean(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run.create(folder, {}, kind="audit", model={"name": "mine"}, seeds=[0]) as run:
        for n, (score, copied) in enumerate(((0.05, True), (0.15, False), (0.3, False))):
            run.append(record(folder, "work", work(n, 24), None, None))
            run.append({**record(folder, "before", work(n, 24), 0, copied), "scores": {"tiled_l2": score}})
            run.append({**record(folder, "twin", work(n, 24), 0, False), "scores": {"tiled_l2": 0.38}})
        run.finish()
    _, _, figures = read_run(folder)
    write_json(folder / "summary.json", {**figures, "criterion": CRITERION})
    page = write_report(folder).read_text()
    badges = re.findall(r'class="badge">([a-z ]+)<', page[page.index("Side by side") :])
    assert {badge: badges.count(badge) for badge in badges} == {"copy": 1, "near copy": 1, "no copy": 4}
    assert "and 1 more is a near copy" in page and "less than 0.2, the most alike" in page
    assert "--threshold:25.0%;--near:50.0%" in page and '<u style="left:95.0%">' in page
    assert '<i style="left:12.5%">' in page, "0.05 of 0.4"


def test_a_score_where_higher_is_a_copy_runs_the_other_way() -> None:
    metric = {"threshold": 0.8, "nearest": 0.5, "median": 0.2, "higher_is_copy": True}
    grading = Grading.of({"decides": "sscd", "metrics": {"sscd": metric}}, ())
    assert grading is not None and grading.place(1.0) == 0 and grading.place(0.6) == pytest.approx(0.5)
    assert grading.place(0.1) == 1 and grading.near({"copied": False, "scores": {"sscd": 0.6}})
    assert not grading.near({"copied": False, "scores": {"sscd": 0.4}})
    assert not grading.near({"copied": True, "scores": {"sscd": 0.9}})
    assert Grading.of({}, ()) is None


def test_gates_look_at_the_upper_bound(folder: Path, tmp_path: Path) -> None:
    _, records, figures = read_run(folder)
    asked = ("copies<=0.6", "copies<=0.9", "shielded<=0.5", "shielded<0.57", "attacked<=0.5", "flagged<=1")
    assert [one.held for one in check_gates(asked, figures, records)] == [
        False,  # 6 of 12 is 50 %, and its upper bound more
        True,
        False,  # 0 of 6, at most 56 %
        True,
        False,
        False,  # nothing was compared with a threshold
    ]
    for text in ("copies", "copies<=2", "nothing<=0.1", "copies>=0.1"):
        with pytest.raises(BadRequestError, match="copies<=0.02"):
            check_gates([text], figures, records)
    done = call("report", folder, "--gate", "shielded<0.57", "--gate", "copies<=0.1", "--junit", tmp_path / "j.xml")
    assert done.exit_code == 3 and "copies<=0.1: missed" in done.stdout and "shielded<0.57: held" in done.stdout
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["copies<=0.1"]
    assert call("report", folder, "--gate", "shielded<0.57").exit_code == 0
    assert call("report", folder, "--junit", tmp_path / "j.xml").exit_code == 2
    assert call("report", folder, "--gate", "nonsense").exit_code == 2


def test_two_runs_are_compared(folder: Path, tmp_path: Path) -> None:
    after = tmp_path / "after"
    with Run.create(after, {"model": "better"}, kind="audit", model={"name": "better"}, seeds=[0, 1]) as run:
        for n in range(6):
            run.append(record(after, "work", work(n, 24), None, None))
            for seed in (0, 1):
                run.append(record(after, "before", work(n, 24), seed, False))
        run.finish()
    page = tmp_path / "compare.html"
    done = call("compare", folder, after, "--out", page, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    (row,) = found["rows"]
    assert [(side["copied"], side["n"]) for side in (row["before"], row["after"])] == [(6, 6), (0, 6)]
    assert found["severity"] == "good" and "Fewer copies" in found["title"] and row["gap"] == -1
    assert "3 prompts before, 3 after" in " ".join(found["differing"]), "works that one run alone judges are left out"
    assert "Options that differ: prompt" in " ".join(found["differing"])
    text = page.read_text()
    assert text.count("<strong>changed</strong>") == 3 and "<script" not in text
    assert text.index("<strong>changed</strong>") < text.index("work-005")
    same = json.loads(call("compare", folder, folder, "--out", page, "--json").stdout)
    assert same["severity"] == "unknown" and same["differing"] == []
    assert call("compare", folder, after, "--out", page, "--gate", "copies<=0.4").exit_code == 0
    assert call("compare", after, folder, "--out", page, "--gate", "copies<=0.4").exit_code == 3
    assert call("compare", folder, tmp_path, "--out", page).exit_code == 2


def test_the_model_card_is_one_that_the_hub_reads(folder: Path) -> None:
    done = call("report", finished(folder), "--model-card")
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == str(folder / "model-card.md")
    card = ModelCard((folder / "model-card.md").read_text())
    assert card.data.model_name == "testbed"
    results = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert results["before, works in the training data"] == 1.0
    assert {one.task_type for one in card.data.eval_results} == {"text-to-image"}
    assert "## Memorization" in card.text and "testbed memorizes: 100%" in card.text


def test_a_scan_has_a_page_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    with Run.create(folder, {}, kind="scan", model={"name": "mine"}, seeds=[0]) as run:
        for n in range(20):
            item = {**stranger(n), "kind": "prompt", "item": f"prompt-{n}"}
            scanned = record(folder, "scan", item, 0, None, drawn=False, flagged=n > 17)
            run.append({**scanned, "scores": {"noise_gap": n / 10}, "id": record_id({}, str(n), 0)})
        run.finish()
    highest = [{"score": 1.9, "item": "prompt-19", "prompt": "the last one"}]
    scores = {"noise_gap": {"n": 20, "unscored": 0, "median": 0.95, "highest": 1.9}}
    counts = {"flagged": 2, "cleared": 18, "undecided": 0, "threshold": 1.75, "highest": highest, "scores": scores}
    write_json(folder / "summary.json", {"format": 1, "model": "mine", **counts})
    page = write_report(folder).read_text()
    assert "2 of 20 prompts look memorized" in page and "the last one" in page and "Scores of noise_gap" in page
    assert page.count('<b class="above"') > 0 and "threshold 1.75" in page
    write_json(folder / "summary.json", {"format": 1, "model": "mine", **counts, "flagged": 0, "cleared": 0})
    assert "Can&#39;t say which prompts mine memorized" in write_report(folder).read_text()


def test_stages_are_shown_as_a_flow(folder: Path) -> None:
    stages = [{"stage": "before", "status": "complete"}, {"stage": "twin", "status": "skipped", "why": "no twin"}]
    _, _, figures = read_run(folder)
    drawn, skipped = flow(stages, figures)
    assert (drawn["label"], drawn["rate"]["rate"], skipped["status"]) == ("draw", 0.5, "skipped")
    write_json(folder / "stages.json", stages)
    page = write_report(folder).read_text()
    assert "draw<small>50% copies</small>" in page and 'title="no twin"' in page


@pytest.mark.parametrize(
    "kind, severity, says",
    [
        ("prune", "good", "After pruning the caption returns no copy"),
        ("attack", "high", "brings works back, and not unseen pictures"),
        ("harden", "good", "After hardening the caption returns no copy"),
    ],
)
def test_the_headline_is_what_the_verb_was_run_for(folder: Path, kind: str, severity: str, says: str) -> None:
    about = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**about, "kind": kind, "config": {"mask": "m"}})
    head = report_of(finished(folder))["headline"]
    assert head["severity"] == severity and says in head["title"], head


def test_a_located_mask_has_a_headline(tmp_path: Path) -> None:
    with Run.create(tmp_path / "mask", {}, kind="localize", model={"name": "mine"}) as run:
        run.finish()
    overlap = [{"prompts": 4, "iou": 0.3, "low": 0.2, "high": 0.4, "iou_random": 0.02}]
    located = {"weights": 10, "size": 100, "density": 0.1, "prompts": 8}
    for found, severity in ((overlap, "medium"), ([], "unknown")):
        summary = {"format": 1, "model": "mine", "mask": {**located, "overlap": found}}
        write_json(tmp_path / "mask" / "summary.json", summary)
        head = report_of(tmp_path / "mask")["headline"]
        assert head["severity"] == severity and "10 of 100 weights" in head["detail"]


@pytest.mark.parametrize(
    "copied, gap, low, severity, says",
    [
        (2, 1.0, 0.12, "high", "the memory is still there"),
        (2, 1.0, -0.12, "unknown", "too few to tell from its controls"),
        (2, 0.0, -0.5, "good", "no more than it does of its controls"),
        (0, 0.0, -0.79, "good", "no more than it does of its controls"),
    ],
)
def test_an_attack_that_so_few_works_cannot_tell_from_chance_is_unclear(
    copied: int, gap: float, low: float, severity: str, says: str
) -> None:
    """Two works of two came back: an interval that reaches zero is no proof that nothing is there."""
    rate = {"n": 2, "works": 1, "copied": copied, "rate": copied / 2, "low": 0.0, "high": 1.0}
    figures = {
        "pruned": True,
        "attack": "adversarial_embedding",
        "curve": [{"stage": "attacked", "attack_steps": 25, **rate}],
        "gaps": [
            {"stage": "attacked", "attack_steps": 25, "control": "twin_attacked", "gap": gap, "low": low, "high": 1.0}
        ],
    }
    run = SimpleNamespace(
        figures=figures, masked=(), command=lambda *words: " ".join(words), pictures=lambda stage: [], model="mine"
    )
    found = attack(run)
    assert found.severity == severity and says in found.title
    assert (found.next is None) == (severity == "good")
    said = attack_words(figures, "attacked")[1]
    assert ("don't rule it out" in said) == (severity == "unknown")
