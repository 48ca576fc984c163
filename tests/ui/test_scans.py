"""What the Scan tab shows of a real scan's folder."""

import pytest

from probes.errors import RunError
from probes.runs.folder import Run
from probes.scan.scan import scan
from tests.ui.serving import weights
from ui.folders import Folders
from ui.scans import COLUMNS, DARKEST, Scan, marked

PROMPTS = ("a red thing", "the <b>cat</b>", "a cat and the cat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Three prompts, scored with a threshold that flags all, and without one."""
    root = tmp_path_factory.mktemp("runs")
    (root / "mine.txt").write_text("\n".join(PROMPTS))
    with weights(tmp_path_factory.mktemp("weights"), threshold=-1.0):
        scan(root / "mine.txt", root / "all", device="cpu", show_progress=False)
    with weights(tmp_path_factory.mktemp("none"), threshold=None):
        scan(root / "mine.txt", root / "none", device="cpu", show_progress=False)
    return Folders(root)


def test_prompts_are_listed_by_score_with_what_flagged_them(folders: Folders) -> None:
    made = Scan.read(folders, "all")
    rows = made.rows()
    assert {row[0] for row in rows} == set(PROMPTS) and all(len(row) == len(COLUMNS) for row in rows)
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True) and {row[2] for row in rows} == {"flagged"}
    assert made.sentence().startswith("3 scores, 3 flagged, by a structure gap above -1.000. The threshold flags")


def test_the_words_of_a_row_are_marked_in_their_order(folders: Folders) -> None:
    made = Scan.read(folders, "all")
    row = next(row for row in made.rows() if row[0] == PROMPTS[2])
    pieces = made.marked(row)
    assert "".join(text for text, _ in pieces) == PROMPTS[2]
    shares = [share for _, share in pieces if share is not None]
    assert len(shares) == 5 and max(shares) == DARKEST and "%" in row[3]
    assert made.marked(["no such prompt", "1"]) == []


def test_what_couldnt_be_judged_is_not_said_to_have_passed(folders: Folders) -> None:
    made = Scan.read(folders, "none")
    assert {row[2] for row in made.rows()} == {"not judged"}
    assert made.sentence().startswith("3 scores; none could be judged.") and "calibrate" in made.sentence()


def test_a_run_of_another_kind_is_no_scan(folders: Folders) -> None:
    with Run.create(folders.root / "audit", {}, kind="audit") as run:
        run.finish()
    with pytest.raises(RunError, match="audit is no scan"):
        Scan.read(folders, "audit")


def test_pieces_by_hand() -> None:
    assert marked("a cat, a dog", [["a", 0.2], ["dog", 0.4]]) == [("a", 0.25), (" cat, a ", None), ("dog", 0.5)]
    assert marked("nothing", []) == [("nothing", None)]
