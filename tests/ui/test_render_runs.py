"""What the Audit tab says of a run, from records as an audit writes them."""

from pathlib import Path

import pytest

from probes.runs.folder import Run, write_json
from tests.probes.report.demo import EVIL, record, stranger, work
from tests.ui.test_render import Elements
from ui import render_runs
from ui.folders import Folders
from ui.render_runs import SORTS, Wanted, by_item, ordered


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """One run: two copied works (one with a hostile prompt), one that was never copied, one non-member, one scene."""
    items = [work(0, 1024), work(1, 1024), work(2, 24), stranger(0)]
    folder = tmp_path / "one"
    with Run.create(folder, {}, kind="audit", model={"name": EVIL}) as run:
        for item in items:
            run.append(record(folder, "work", item, None, None))
            run.append({**record(folder, "scan", item, 500, None, drawn=False), "copied": None})
            for seed in (1, 0):
                run.append(record(folder, "before", item, seed, item["rung"] == 1024))
            run.append(record(folder, "shielded", item, 0, False, drawn=False, action="block", reason=EVIL))
            run.append(record(folder, "attacked", item, 0, False, steps=0))
            run.append(record(folder, "attacked", item, 0, True, steps=50))
        run.finish("interrupted")
    write_json(folder / "stages.json", [{"stage": "scan", "status": "skipped", "seconds": 61.4, "why": EVIL}])
    return Folders(tmp_path)


def shown(folders: Folders, **wanted) -> Elements:
    return Elements(render_runs.works(folders.path("one"), folders.records("one"), Wanted(**wanted)))


def test_a_strangers_text_stays_text(folders: Folders) -> None:
    run, records = folders.opened("one"), folders.records("one")
    for made in (
        render_runs.summary(run, records),
        render_runs.works(run.folder, records, Wanted()),
        render_runs.record_table(records, "", "", 1),
        render_runs.stages([{"stage": EVIL, "status": EVIL}]),
    ):
        assert "<script" not in made and "alert(1)" in Elements(made).text + str(Elements(made).tags)


def test_the_summary_speaks_in_the_reports_words(folders: Folders) -> None:
    text = Elements(render_runs.summary(folders.opened("one"), folders.records("one"))).text
    assert "interrupted" in text and "the model returned a copy in 4 of 6 pictures (67%" in text
    assert "has written no summary" in text, "what can't be said is said"
    assert "Copies at each stagestagepictures asked forpicturesworks" in text


def test_works_are_found_filtered_and_sorted(folders: Folders) -> None:
    assert len(shown(folders).all("tr")) == 1 + 4 and "Works 1 to 4 of 4; page 1 of 1." in shown(folders).text
    assert len(shown(folders, text="HARBOR").all("tr")) == 1 + 2
    assert len(shown(folders, group="nonmembers").all("tr")) == 1 + 1
    assert len(shown(folders, copies=True).all("tr")) == 1 + 4, "the attack copied all of them"
    assert "No works fit." in shown(folders, text="zebra").text
    items = list(by_item(folders.records("one")).values())
    names = {sort: [rows[0]["item"] for rows in ordered(items, sort)] for sort in SORTS}
    assert names[SORTS[1]] == ["work-000", "work-001", "work-002", "nonmember-000"]
    assert names[SORTS[2]][:2] == ["work-000", "work-001"] and names[SORTS[3]][0] == "nonmember-000"
    assert render_runs.groups(folders.records("one")) == ["members", "nonmembers"]


def test_a_cell_shows_the_first_seed_and_the_largest_attack(folders: Folders) -> None:
    seen = shown(folders, text="no. 1")
    assert [image["alt"] for image in seen.all("img")] == [
        f"work-001, {title}" for title in ("original", "before", "attacked")
    ]
    assert "blocked" in seen.text and seen.text.count("copy") == 2 and "shown 1021 times" in seen.text
    assert "no copy" in shown(folders, text="no. 2").text


def test_a_record_cant_show_a_file_from_elsewhere(folders: Folders, tmp_path: Path) -> None:
    secret = work(7, 24)
    (tmp_path / "secret").mkdir()
    made = record(tmp_path / "secret", "before", secret, 0, False)
    records = [{**made, "picture": "../secret/" + made["picture"]}]
    seen = Elements(render_runs.works(folders.path("one"), records, Wanted()))
    assert seen.all("img") == [] and "no picture" in seen.text


def test_records_come_in_pages_and_by_stage(folders: Folders) -> None:
    records = folders.records("one")
    text = Elements(render_runs.record_table(records, "before", "", 1)).text
    assert "Records 1 to 8 of 8" in text and "tiled_l2 0.05" in text and "copy" in text
    many = [{"id": str(n), "stage": "scan", "prompt": f"p{n}"} for n in range(95)]
    last = Elements(render_runs.record_table(many, "", "", 99))
    assert "Records 81 to 95 of 95; page 3 of 3." in last.text and "p94" in last.text
    assert "Records 1 to 1 of 1" in Elements(render_runs.record_table(many, "", "P94", 1)).text


def test_curves_are_drawn_where_there_are_figures(folders: Folders, tmp_path: Path) -> None:
    made = Elements(render_runs.curves(folders.opened("one"), folders.records("one")))
    words = [svg["aria-label"] for svg in made.all("svg")]
    assert len(words) == 2 and words[0].startswith("Copies by how often")
    with Run.create(tmp_path / "scan", {}, kind="scan") as run:
        run.finish()
    assert "no curves" in render_runs.curves(folders.opened("scan"), ())
    write_json(tmp_path / "scan" / "summary.json", {"mask": {"densities": {"mid_block.ff.net.2": 0.05}}})
    assert "Share of each layer" in render_runs.curves(folders.opened("scan"), ())


def test_records_of_another_shape_are_listed_all_the_same(tmp_path: Path) -> None:
    with Run.create(tmp_path / "odd", {}, kind="probe") as run:
        run.append({"id": "a", "value": 3})
        run.finish()
    folders = Folders(tmp_path)
    records = folders.records("odd")
    assert "1 records" in Elements(render_runs.summary(folders.opened("odd"), records)).text
    assert "No works fit." in render_runs.works(folders.path("odd"), records, Wanted())
    assert len(Elements(render_runs.record_table(records, "", "", 1)).all("tr")) == 2
