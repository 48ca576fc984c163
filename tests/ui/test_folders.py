"""Run folders by name: listed newest first, damaged ones left out, and nothing outside of the root."""

from pathlib import Path

import pytest

from probes.errors import RunError
from probes.runs.folder import Run
from ui.folders import Folders, stages_of


def made(folder: Path, status: str = "complete") -> Run:
    with Run.create(folder, {"quick": True}, kind="audit", model={"name": "testbed"}) as run:
        run.append({"id": "a", "stage": "before", "item": "work-1", "kind": "work", "prompt": "a cat"})
        run.finish(status)
    return run


def test_folders_are_listed_with_their_status(tmp_path: Path) -> None:
    made(tmp_path / "one")
    made(tmp_path / "deep" / "two", "interrupted")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "no-run").mkdir()
    listed = {run.name: run for run in Folders(tmp_path).listed()}
    assert set(listed) == {"one", "deep/two"}
    assert listed["deep/two"].status == "interrupted" and listed["one"].model == "testbed"
    assert Folders(tmp_path / "nowhere").listed() == []


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "", ".", "one/../../other", "link", "a\0b", "x" * 5000])
def test_no_name_leads_out_of_the_root(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    made(root / "one")
    made(tmp_path / "other")
    (root / "link").symlink_to(tmp_path / "other")
    folders = Folders(root)
    assert [run.name for run in folders.listed()] == ["one"]
    for look in (folders.opened, folders.records):
        with pytest.raises(RunError):
            look(name)


def test_records_are_read_again_when_they_grow(tmp_path: Path) -> None:
    made(tmp_path / "one")
    folders = Folders(tmp_path)
    assert len(folders.records("one")) == 1
    with open(tmp_path / "one" / "records.jsonl", "a") as file:
        file.write('{"id": "b", "stage": "scan"}\n{"id": "torn')
    assert [record["id"] for record in folders.records("one")] == ["a", "b"]
    assert stages_of(folders.opened("one")) == []
    (tmp_path / "one" / "stages.json").write_text("[")
    with pytest.raises(RunError, match="can't be read"):
        stages_of(folders.opened("one"))
