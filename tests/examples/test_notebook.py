"""The notebook runs as it stands, on the shipped model, and finds what its text says."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from probes.testbed.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_audit.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[dict]:
    """The outputs of all cells, in order."""
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_and_finds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    found = outputs(notebook)
    said = "".join(output["text"] for output in found if output.get("name") == "stdout").splitlines()
    most = max(work.exposures for work in load_manifest().works())
    assert f"seen {most:,} times" in said[0] and " flagged the " in said[1] and " passed  a " in said[2]
    assert re.search(r"weights \(3\d%\) in 16 layers", said[3])
    assert said[4].startswith("before copies") and said[5].startswith("pruned doesn't copy")
    assert said[6:] == [
        "attacked: 1 of 1 are copies",
        "nonmember_attacked: 0 of 2 are copies",
        "twin_attacked: 0 of 1 are copies",
    ]
    assert sum("image/png" in output.get("data", {}) for output in found) == 2


def test_the_notebook_is_kept_as_it_was_run() -> None:
    """The docs show its outputs, and none is an error."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    kinds = [output["output_type"] for output in outputs(notebook)]
    assert kinds and "error" not in kinds
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
