"""What the page's one audit may run."""

import sys
import time
from pathlib import Path

import pytest

from probes.errors import AuditError
from probes.runs.folder import Run
from ui.audits import Audits
from ui.folders import Folders


def stopped(root: Path, name: str, model: object) -> None:
    with Run.create(root / name, {"quick": True}, kind="audit", model={"name": model}) as run:
        run.finish("interrupted")


@pytest.mark.parametrize("model", ["/srv/anything", "owner/name", "testbed+/tmp/a.safetensors", None, ["testbed"], ""])
def test_a_run_folder_chooses_no_model_that_the_page_was_not_given(tmp_path: Path, model: object) -> None:
    stopped(tmp_path, "strange", model)
    started = tmp_path / "started"
    audits = Audits(Folders(tmp_path), command=(sys.executable, "-c", f"open({str(started)!r}, 'w')"))
    with pytest.raises(AuditError, match="This page audits testbed, testbed-clean alone"):
        audits.resume("strange")
    with pytest.raises(AuditError, match="This page audits"):
        audits.start(str(model))
    assert not audits.resumable("strange") and not audits.running and not started.exists()


def test_a_listed_model_goes_on(tmp_path: Path) -> None:
    stopped(tmp_path, "mine", "/srv/mine")
    said = tmp_path / "said"
    code = f"import sys; open({str(said)!r}, 'w').write(' '.join(sys.argv))"
    audits = Audits(Folders(tmp_path), command=(sys.executable, "-c", code), models=["/srv/mine"])
    assert audits.resumable("mine") and audits.resume("mine") == "mine"
    while audits.running:
        time.sleep(0.05)
    assert "--model /srv/mine --resume" in said.read_text()
