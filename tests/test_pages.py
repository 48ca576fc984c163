"""What the README and docs/results.md claim is what the result files say."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from probes.bench import plots
from probes.bench.pages import BLOCKS, PAGES, fill, filled
from probes.bench.questions import SOURCES, compared, table
from probes.model.denoising import CALLS
from shield.model.families import FAMILIES
from tests.probes.test_every_family import LOCATED, SCORED
from tests.probes.test_families import MAKERS
from tests.probes.test_real_size import WEIGHTS
from tests.shield.test_every_family import WAYS

ROOT = Path(__file__).resolve().parents[1]
FIRST = ROOT / "docs/bench/first"


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_the_result_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- end -->" in text and filled(text, ROOT) == text


def test_every_block_stands_on_a_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in BLOCKS if f"<!-- {name} -->" not in text] == []


def test_a_changed_figure_is_filled_in(tmp_path: Path) -> None:
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text("a <!-- spill -->old<!-- end --> b\n", encoding="utf-8")
    file = tmp_path / BLOCKS["spill"][0]
    file.parent.mkdir(parents=True)
    rate = {"copied": 0.0, "share": 0.25, "n": 8}
    side = {kind: {metric: rate for metric in ("tiled_l2", "pdq")} for kind in ("own", "any_work")}
    file.write_text(json.dumps({"nonmembers": {"memorized": side, "clean": side}}), encoding="utf-8")
    assert len(fill(tmp_path)) == len(PAGES) and not fill(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "0 times in 8 pictures" in text and "2 times by tiled L2" in text and text.endswith("<!-- end --> b\n")


def first_results() -> dict[str, Any]:
    return {name: json.loads((FIRST / Path(file).name).read_text(encoding="utf-8")) for name, file in SOURCES.items()}


def test_questions_are_counted_from_all_of_their_files() -> None:
    first = first_results()
    results = copy.deepcopy(first)
    groups = results["shield"]["works"]["shield"]
    left, drawn = re.search(r"(\d+) of (\d+); with a gallery", table(results, {})).groups()
    groups[[name for name in groups if name.startswith("rung ")][-1]]["count"] += 100
    results["benchmarks"]["shield_overhead"]["figures"] = [
        {**row, "value": 1.5} for row in results["benchmarks"]["shield_overhead"]["figures"]
    ]
    made = table(results, first)
    assert f"{int(left) + 100} of {drawn}; with a gallery" in made and "1.500x the time" in made and "¹" not in made
    assert {line.count("|") for line in made.splitlines()} == {5}, "a cell for each of the four columns"


def test_a_row_that_is_not_measured_yet_is_the_first_versions_and_says_so() -> None:
    first = first_results()
    made = table({**first, "shield": None}, first)
    marked = {line for line in made.splitlines() if "¹ |" in line}
    assert {line.split("|")[1].split()[0] for line in marked} == {"Do", "Are"} and "¹ Measured on" in made
    assert len(table({**first, "shield": None}, {}).splitlines()) == len(table(first, {}).splitlines()) - len(marked)


def test_then_and_now_stand_in_one_row() -> None:
    first = first_results()
    now = copy.deepcopy(first)
    now["benchmarks"]["shield_overhead"]["figures"] = [
        {**row, "value": 1.5} for row in now["benchmarks"]["shield_overhead"]["figures"]
    ]
    lines = compared({**now, "attacks": None}, first).splitlines()
    cost = next(line for line in lines if "cost" in line)
    assert "1.009x" in cost.split("|")[2] and "1.500x" in cost.split("|")[3]
    unmeasured = [line.split("|")[1] for line in lines if "not measured yet" in line]
    assert len(unmeasured) == 2 and len(lines) == len(table(first, {}).splitlines())


def test_a_block_is_of_this_testbed_else_of_the_first_version_else_missing(tmp_path: Path) -> None:
    file, place = BLOCKS["spill"][0], "<!-- spill --><!-- end -->"
    assert filled(place, tmp_path) == f"<!-- spill -->*Not measured: nothing in {file}.*<!-- end -->"
    rate = {"copied": 0.0, "share": 0.25, "n": 8}
    side = {kind: {metric: rate for metric in ("tiled_l2", "pdq")} for kind in ("own", "any_work")}
    result = json.dumps({"nonmembers": {"memorized": side, "clean": side}})
    texts = []
    for path in (tmp_path / "docs/bench/first/verify.json", tmp_path / file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(result, encoding="utf-8")
        texts.append(filled(place, tmp_path))
    assert "first version" in texts[0] and "first version" not in texts[1] and "0 times in 8 pictures" in texts[1]


def test_headings_and_plots_lead_to_what_was_measured_last(tmp_path: Path) -> None:
    (tmp_path / "docs/bench").mkdir(parents=True)
    (tmp_path / "docs/bench/traps.json").write_text('{"rows": []}', encoding="utf-8")
    lines = ["## Traps: [docs/bench/first/traps.json](bench/first/traps.json)", "![Plot](bench/first/traps.png)"]
    head, plot, prose = filled("\n".join([*lines, "bench/first/traps.json"]), tmp_path).split("\n")
    assert head == "## Traps: [docs/bench/traps.json](bench/traps.json)"
    assert plot == "![Plot](bench/first/traps.png)" and prose == "bench/first/traps.json"


def test_half_of_a_result_stands_nowhere(tmp_path: Path) -> None:
    for folder, text in (("docs/bench", '{"unfinished": true, "sweep": []}'), ("docs/bench/first", '{"sweep": []}')):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "localizers.json").write_text(text, encoding="utf-8")
    heading = "## [docs/bench/first/localizers.json](bench/first/localizers.json)"
    assert filled(heading, tmp_path) == heading and plots.draw(tmp_path / "docs/bench") == []


def test_the_table_of_models_says_what_tests_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Models")[1].split("\n## ")[0]
    rows = {
        found[1]: [cell.strip() for cell in found[2].split("|")]
        for found in re.finditer(r"^\| `(\w+)`[^|]*\|(.*)\|$", text, re.MULTILINE)
    }
    assert list(rows) == [family.name for family in FAMILIES]
    tried = {way.split("_")[0] for way in WAYS}
    assert {name for name, row in rows.items() if row[0] == "yes"} <= tried
    said = [{name for name, row in rows.items() if row[column] == "yes"} for column in range(1, 4)]
    assert said[:2] == [set(SCORED), set(LOCATED)] and said[2] == {"sd", *MAKERS} <= set(CALLS)
    full = {name for name, row in rows.items() if "at full size" in row[4]}
    assert full == {"sdxl" if name == "sdxl" else "sd" for name in WEIGHTS}


def test_the_readmes_costs_are_those_of_the_first_call() -> None:
    costs = {}
    for page in ("README.md", "docs/first-call.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        rows = re.findall(r"^\| guidance o.*$", text, re.MULTILINE)
        costs[page] = [re.findall(r"([\d.]+) %", row) for row in rows]
    assert costs["README.md"] == costs["docs/first-call.md"] and len(costs["README.md"]) == 2


def test_single_rows_are_taken_of_a_result_that_is_not_whole(tmp_path: Path) -> None:
    place = "<!-- pruning-claim --><!-- end --><!-- localizers --><!-- end -->"
    rate = {"share": 0.25, "low": 0.0, "high": 0.5, "n": 8}
    row = {"density": 0.125, "copies": rate, "loss": {"value": 0.01, "low": 0.0, "high": 0.02}, "distance": 0.1}
    name = "chosen for a loss up to 0.05: some, k=0.1"
    rows = [{"name": "unpruned", **row}, {"name": name, **row}, {"name": f"{name}, random", **row}]
    file = tmp_path / "docs/bench/localizers.json"
    file.parent.mkdir(parents=True)
    for count, is_said in ((2, False), (3, True)):
        held = {"unfinished": True, "losses": [0.02, 0.05], "heldout": rows[:count]}
        file.write_text(json.dumps(held), encoding="utf-8")
        claim, table = filled(place, tmp_path).split("<!-- end -->")[:2]
        assert ("Pruning 12% of the searched layers' weights (some, k=0.1)" in claim) == is_said
        assert "Not measured" in table and ("Not measured" in claim) != is_said
