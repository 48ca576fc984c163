"""What the page's one run may be, of whose prompts, and how far it is."""

import sys
import time
from pathlib import Path

import pytest

from probes.errors import AuditError, PromptFileError
from probes.runs.folder import Run
from ui.folders import Folders
from ui.runner import Runner, place_of


def stopped(root: Path, name: str, model: object) -> None:
    with Run.create(root / name, {"quick": True}, kind="audit", model={"name": model}) as run:
        run.finish("interrupted")


@pytest.mark.parametrize("model", ["/srv/anything", "owner/name", "testbed+/tmp/a.safetensors", None, ["testbed"], ""])
def test_a_run_folder_chooses_no_model_that_the_page_was_not_given(tmp_path: Path, model: object) -> None:
    stopped(tmp_path, "strange", model)
    started = tmp_path / "started"
    runner = Runner(Folders(tmp_path), command=(sys.executable, "-c", f"open({str(started)!r}, 'w')"))
    with pytest.raises(AuditError, match="This page runs testbed, testbed-clean alone"):
        runner.resume("strange")
    with pytest.raises(AuditError, match="This page runs"):
        runner.start("audit", str(model))
    assert not runner.resumable("strange") and not runner.running and not started.exists()


def test_a_listed_model_goes_on(tmp_path: Path) -> None:
    stopped(tmp_path, "mine", "/srv/mine")
    said = tmp_path / "said"
    code = f"import sys; open({str(said)!r}, 'w').write(' '.join(sys.argv))"
    runner = Runner(Folders(tmp_path), command=(sys.executable, "-c", code), models=["/srv/mine"])
    assert runner.resumable("mine") and runner.resume("mine") == "mine"
    while runner.running:
        time.sleep(0.05)
    assert "--model /srv/mine --resume" in said.read_text()


def words(tmp_path: Path, start) -> list[str]:
    """The command line that a start gives."""
    said = tmp_path / "said"
    code = f"import sys; open({str(said)!r}, 'w').write('\\n'.join(sys.argv))"
    runner = Runner(Folders(tmp_path / "runs"), command=(sys.executable, "-c", code))
    start(runner)
    while runner.running:
        time.sleep(0.05)
    return said.read_text().splitlines()[1:]


def test_own_prompts_are_kept_and_handed_to_the_verb(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a cat\na dog\na red thing\n")
    scan = words(tmp_path, lambda runner: runner.start("scan", "testbed", [tmp_path / "mine.txt"], 2))
    assert scan[0] == "scan" and scan[-2:] == ["--limit", "2"]
    kept = Path(next(word for word in scan if word.endswith("mine.txt")))
    assert kept.read_text() == "a cat\na dog\na red thing\n" and kept.is_relative_to(tmp_path / "runs" / ".inputs")
    audit = words(tmp_path, lambda runner: runner.start("audit", "testbed", [tmp_path / "mine.txt"]))
    assert audit[:2] == ["audit", "--quick"] and audit[audit.index("--prompts") + 1] == str(kept)
    assert "--limit" not in audit


def test_a_model_that_nothing_is_known_about_needs_prompts(tmp_path: Path) -> None:
    runner = Runner(Folders(tmp_path), command=(sys.executable, "-c", ""), models=["/srv/mine"])
    with pytest.raises(AuditError, match="choose a file of prompts first"):
        runner.start("scan", "/srv/mine")
    with pytest.raises(PromptFileError, match="is none of"):
        runner.start("scan", "/srv/mine", [Path(__file__)])
    assert not runner.running and runner.name is None


def test_a_scan_of_a_strangers_file_is_not_continued(tmp_path: Path) -> None:
    """A run folder names its input, which may be any file of the machine."""
    (tmp_path / "secret.txt").write_text("a cat\n")
    given = [{"path": str(tmp_path / "secret.txt"), "sha256": ""}]
    with Run.create(tmp_path / "runs" / "s", {}, kind="scan", inputs=given, model={"name": "testbed"}) as run:
        run.finish("interrupted")
    runner = Runner(Folders(tmp_path / "runs"), command=(sys.executable, "-c", ""))
    assert not runner.resumable("s")
    with pytest.raises(AuditError, match="scans of this page"):
        runner.resume("s")


def test_the_stage_that_runs_is_the_one_after_the_last_that_ended() -> None:
    entries = [{"stage": "work", "status": "complete"}, {"stage": "shielded", "status": "skipped"}]
    assert place_of([])[:2] == (0, "work") and place_of(entries)[1] == "twin"
    assert place_of([*entries, {"stage": "twin", "status": "partial"}])[1] == "twin"
    done, stage, total = place_of([{"stage": "hardened_nonmember_attacked", "status": "skipped"}])
    assert done == total and stage == "report"
