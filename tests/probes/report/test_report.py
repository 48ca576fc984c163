"""Reports: every figure from the records, nothing unescaped, one file, no torch."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probes.errors import RunError
from probes.report import figures as summary
from probes.report import plots
from probes.report.html import table_rows, write_report
from probes.report.sentences import attack_words, percent, share
from probes.report.sheets import sheets, thumbnail
from probes.runs.folder import Run, write_json
from tests.probes.report.demo import record, work


class Strict(HTMLParser):
    """Collects what a page holds; unbalanced tags are an error."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(path: Path) -> Strict:
    page = Strict()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open
    return page


def test_the_page_is_one_file_and_nothing_in_it_runs(folder: Path) -> None:
    page = parsed(write_report(folder))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "base", "form")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/jpeg;base64,", "#")), (tag, address)
    assert "alert(1)</script>" in "".join(page.text), "the prompt must be shown, as text"
    assert "{{ 7 * 7 }}" in "".join(page.text)


def test_the_page_says_what_the_records_say(folder: Path) -> None:
    text = re.sub(r"\s+", " ", "".join(parsed(write_report(folder)).text))
    assert "returned a copy in 6 of 12 pictures (50%" in text
    assert "Behind the shield, what was handed out was a copy in 0 of 6 pictures (0%, 95% interval 0 to 56%" in text
    assert "tunes the prompt's embedding for 50 steps got the work back in 6 of 6 pictures" in text
    assert "3 of 90 pictures could not be judged (3: tiled_l2 can't score it)" in text
    assert "After hardening, the caption returned a copy in 0 of 6 pictures" in text
    assert "From the hardened model the same attack at 50 steps got the work back in 2 of 6 pictures" in text
    for title in (
        "original",
        "before",
        "shielded",
        "pruned",
        "attacked",
        "hardened",
        "attacked again",
        "clean twin",
        "twin attacked",
        "blocked",
        "The attack on the hardened model",
    ):
        assert title in text


def test_the_numbers_are_in_report_json_too(folder: Path) -> None:
    write_report(folder)
    report = json.loads((folder / "report.json").read_text())
    records = list(Run.open(folder).records())
    assert report["curve"] == summary.attack_curve(records, "tiled_l2")
    rows = {(row["stage"], row["group"]): row for row in report["rows"]}
    assert rows["before", "members"]["copied"] == 6 and rows["before", "nonmembers"]["copied"] == 0
    assert [row["rate"] for row in report["ladder"]] == [0.0, 1.0]
    assert report["run"]["status"] == "complete" and report["sentences"]


def test_a_summary_that_the_run_wrote_is_taken_as_it_is(folder: Path) -> None:
    row = {
        "stage": "before",
        "group": "members",
        "rung": None,
        "n": 40,
        "works": 4,
        "unscored": 0,
        "copied": 31,
        "rate": 0.775,
        "low": 0.6,
        "high": 0.9,
        "interval": "bootstrap",
        "median_score": 0.1,
    }
    write_json(folder / "summary.json", {"format": 1, "model": "testbed", "rows": [row], "limits": ["Only <this>."]})
    text = "".join(parsed(write_report(folder)).text)
    assert "31 of 40 pictures (78%, 95% interval 60 to 90%, 4 works)" in text and "Only <this>." in text


UTILITY = {
    "alignment_before": 0.3,
    "alignment_after": 0.29,
    "loss": 0.01,
    "low": 0.0,
    "high": 0.02,
    "n": 8,
    "scenes": 4,
    "unscored": 0,
}
HARDENING = {
    "hardener": "adversarial_fine_tuning",
    "works": ["a", "b"],
    "dev": ["c"],
    "keep": 12,
    "epochs": 2.0,
    "stopped_early": True,
    "borrowed_surrogates": 1,
    "utility": UTILITY,
    "checks": [{"epoch": 1, "caption": 0, "caption_judged": 1, "attack": 1, "attack_judged": 1}],
}


def pairs(value: float | None, **more: Any) -> dict[str, Any]:
    around = {"low": None, "high": None} if value is None else {"low": 0.9 * value, "high": 1.1 * value}
    return {"value": value, **around, "n": 8, "blocks": 2, "pairs": 12, "unscored": 1, **more}


def test_hardening_drift_and_the_tradeoff_are_shown_with_their_numbers(folder: Path) -> None:
    row = {
        "stage": "before",
        "group": "members",
        "rung": None,
        "n": 40,
        "works": 4,
        "unscored": 2,
        "copied": 31,
        "rate": 0.775,
        "low": 0.6,
        "high": 0.9,
        "interval": "bootstrap",
        "median_score": 0.1,
    }
    drift = {"stage": "hardened", "group": "scenes", **pairs(0.2), "works": 4, "seeds": 0.5}
    point = {**row, "k": 0.1, "density": 0.023, "weights": 9, "random": {**row, "copied": 30}, "utility": UTILITY}
    write_json(folder / "summary.json", {"rows": [row], "tradeoff": [point], "drift": [drift], "hardening": HARDENING})
    text = re.sub(r"\s+", " ", "".join(parsed(write_report(folder)).text))
    assert "adversarial_fine_tuning (epochs: 2, ended early by the check on the latter): 2 works, and 1 more" in text
    assert "Surrogates borrowed from ordinary pictures" in text and "0.180 to 0.220" in text
    assert "through hardening (loss 0.010, 95% interval 0.000 to 0.020, 4 scenes)" in text
    assert "31 of 40 (2 not judged)" in text and "30 of 40 (2 not judged)" in text and "2.30%" in text


def test_a_run_without_pictures_is_reported_from_its_figures(tmp_path: Path) -> None:
    overlap = {"prompts": 4, "iou": 0.5, "iou_random": None, "weights": [25, 25]}
    mask = {
        "localizer": "ffn_subspace",
        "weights": 50,
        "size": 1000,
        "density": 0.05,
        "prompts": 8,
        "densities": {"a": 0.1, "b": 0.0},
        "overlap": [overlap],
    }
    groups = {name: pairs(0.5) for name in ("results", "captions", "starts", "noises")}
    masks = {name: pairs(None) for name in ("results", "captions", "random, results", "random, captions")}
    points = [
        {"group": group, "block": n, "x": n, "y": 1.0} for group in ("starts", "results", "captions") for n in range(2)
    ]
    locality = {
        "embeddings": [{"group": "results", **pairs(3.0)}],
        "works": ["a", "b"],
        "steps": 50,
        "activations": [{"layer": "a", "kind": "value", "groups": groups}],
        "map": {"explained": 0.4, "points": points},
        "stay": {"n": 8, "nearest_to_own_start": 7, "moved": 1.0},
        "masks": [{"layer": "a", "kind": "ffn_subspace", "groups": masks, "sizes": {"results": 5.0, "captions": 4.0}}],
    }
    with Run.create(tmp_path / "run", {}, kind="localize", model={"name": "testbed"}) as run:
        run.finish()
    write_json(tmp_path / "run" / "summary.json", {"model": "testbed", "mask": mask, "locality": locality})
    page = parsed(write_report(tmp_path / "run"))
    text = re.sub(r"\s+", " ", "".join(page.text))
    assert "50 of 1000 weights (5.00%) were located with 8 prompts" in text
    assert "random masks of that size by none" in text
    assert "7 of 8 results lie nearer" in text and sum(tag == "svg" for tag, _ in page.tags) == 5


@pytest.mark.parametrize("stages", [["scan"], ["before"], ["work"], ["scan", "before"]])
def test_a_run_that_was_stopped_early_still_has_a_report(folder: Path, stages: list[str]) -> None:
    lines = [
        line for line in (folder / "records.jsonl").read_text().splitlines(True) if json.loads(line)["stage"] in stages
    ]
    scanned = {**record(folder, "scan", work(0, 24), 0, None, drawn=False), "scores": {"gap": 2.0}}
    lines = lines or [json.dumps(scanned) + "\n"]
    (folder / "records.jsonl").write_text("".join(lines))
    parsed(write_report(folder))


def test_pictures_that_are_gone_or_broken_or_elsewhere_leave_a_gap(folder: Path, tmp_path: Path) -> None:
    (folder / "pictures/before/work-001-s0-aNone.png").write_bytes(b"no picture")
    (folder / "pictures/before/work-002-s0-aNone.png").unlink()
    parsed(write_report(folder))
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    assert thumbnail(folder, "../secret.png") is None and thumbnail(folder, str(tmp_path / "secret.png")) is None
    assert thumbnail(folder, "pictures/before/work-000-s0-aNone.png").startswith("data:image/jpeg")


def test_the_choice_of_rows_doesnt_look_at_the_outcome(folder: Path) -> None:
    records = list(Run.open(folder).records())
    flipped = [{**r, "copied": None if r["copied"] is None else not r["copied"]} for r in records]
    items = [[row["item"] for row in sheet["rows"]] for sheet in sheets(folder, records)]
    assert items == [[row["item"] for row in sheet["rows"]] for sheet in sheets(folder, flipped)]
    assert items[0][:3] == ["work-000", "work-001", "work-002"], "those with all stages come first"


def test_a_cell_shows_the_largest_budget_and_the_first_seed(folder: Path) -> None:
    sheet = sheets(folder, list(Run.open(folder).records()))[0]
    row = dict(zip(sheet["columns"], sheet["rows"][0]["cells"], strict=True))
    assert row["attacked"]["badge"] == "copy" and "50 attack steps" in row["attacked"]["title"]
    assert row["before"]["badge"] == "copy" and row["clean twin"]["badge"] == "no copy"
    assert row["original"]["badge"] == "" and row["shielded"]["action"] == "mitigate"


@pytest.mark.parametrize(
    "prepare, says",
    [(lambda p: None, "not a run folder"), (lambda p: Run.create(p, {}, kind="scan").finish(), "no records yet")],
)
def test_nothing_to_report_is_one_sentence(tmp_path: Path, prepare: Any, says: str) -> None:
    prepare(tmp_path / "run")
    with pytest.raises(RunError, match=says):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("value, shown", [(0.0, "0"), (0.001, "<1"), (0.999, ">99"), (1.0, "100"), (0.334, "33")])
def test_percent_never_rounds_to_certainty(value: float, shown: str) -> None:
    assert percent(value) == shown


def test_shares_carry_their_numbers() -> None:
    row = {"copied": 1, "n": 2, "rate": 0.5, "low": 0.1, "high": 0.9, "works": 1}
    assert share(row) == "1 of 2 pictures (50%, 95% interval 10 to 90%, 1 work)"


@pytest.mark.parametrize("low, meaning", [(0.1, "memory that is still there"), (-0.1, "no memory beyond")])
def test_the_verdict_of_an_attack_is_the_gap(low: float, meaning: str) -> None:
    row = {
        "stage": "attacked",
        "attack_steps": 50,
        "copied": 9,
        "n": 10,
        "works": 5,
        "rate": 0.9,
        "low": 0.7,
        "high": 1.0,
    }
    gap = {"stage": "attacked", "attack_steps": 50, "control": "twin_attacked", "gap": 0.4, "low": low, "high": 0.8}
    known = {"attack": "adversarial_embedding", "pruned": True}
    said = attack_words({"curve": [row], "gaps": [gap], **known}, "attacked")
    again = attack_words(
        {"curve": [{**row, "stage": "hardened_attacked"}], "gaps": [{**gap, "stage": "hardened_attacked"}], **known},
        "hardened_attacked",
    )
    assert "hardened model" in again[0] and ("left memory" if low > 0 else "no memory beyond") in again[1]
    assert "9 of 10" in said[0] and "+40 percentage points" in said[1] and meaning in said[1]
    assert table_rows({"rows": [], "curve": [row], **known})[0]["label"] == "pruned, then attacked (50 steps)"


def test_an_attack_is_named_for_what_it_did() -> None:
    """A paraphrase tunes no embedding, goes by levels, and here nothing was pruned."""
    row = {
        "stage": "attacked",
        "attack_steps": 4,
        "copied": 9,
        "n": 10,
        "works": 5,
        "rate": 0.9,
        "low": 0.7,
        "high": 1.0,
    }
    paired = [{"level": level, "caption": 1.0, "distorted": 0.9, "p": 0.0625} for level in (3, 4)]
    figures = {
        "rows": [],
        "curve": [row],
        "gaps": [],
        "attack": "paraphrase",
        "pruned": False,
        "ladder_of_paraphrases": paired,
    }
    assert table_rows(figures)[0]["label"] == "attacked (level 4)"
    assert attack_words(figures, "attacked") == [
        "Asked with the caption distorted to level 4, the model returned a copy in 9 of 10 pictures (90%, 95% interval "
        "70 to 100%, 5 works).",
        "On the same noises the caption itself returned copies in 100% (paired over works, p = 0.062).",
    ]
    searched = attack_words({**figures, "attack": "prompt_search"}, "attacked")[0]
    assert searched.startswith("An attacker who searches for other words for 4 steps got the work back")


def test_plots_take_their_ink_from_the_page_and_skip_what_isnt_known() -> None:
    rows = [
        {"stage": "attacked", "attack_steps": steps, "rate": rate, "low": 0.0, "high": 1.0}
        for steps, rate in ((0, 0.1), (9, None))
    ]
    svg = plots.attack_plot(rows)
    assert svg.startswith("<svg") and "currentColor" in svg and plots._INK not in svg and "<metadata" not in svg
    assert not re.search(r"<svg[^>]* (width|height)=", svg)
    assert plots.attack_plot(rows) == svg, "the same figures give the same bytes"


def test_a_report_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from probes.report.html import write_report; "
        "write_report(sys.argv[1]); assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.browser
def test_a_browser_shows_the_page_without_asking_for_anything(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium; install Debian's package of that name")
    shot = tmp_path / "report.png"
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1200,3000",
            "--enable-logging=stderr",
            f"--screenshot={shot}",
            write_report(folder).as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert shot.exists(), done.stderr
    assert "Content Security Policy" not in done.stderr and "Uncaught" not in done.stderr, done.stderr
    assert len(np.unique(np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3), axis=0)) > 1000, "an empty page"
