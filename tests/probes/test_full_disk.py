"""A full disk: scan and generate say so in one sentence, keep what is complete, and go on when there is room again.

On a small file system of its own where mounting is allowed, else with a limit on the size of files.
"""

import os
import resource
import subprocess
import sys

import pytest
from PIL import Image

from probes.runs.folder import Run
from tests.probes.tiny_testbed import calibrating, tiny_testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MAIN = (
    "import resource, sys; limit = int(sys.argv.pop(1))\n"
    "if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "from probes.cli.main import main; main()"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tiny_testbed(tmp_path_factory.mktemp("weights"))
    done = verb(folder, 0, *calibrating(folder / "thresholds" / "negatives.txt"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here; runs wherever mounting is allowed")
    yield folder
    subprocess.run(["umount", folder], check=True)


def verb(weights, limit, *arguments):
    env = {**os.environ, "DIFFSHIELD_WEIGHTS": str(weights), "COLUMNS": "80"}
    command = [sys.executable, "-c", MAIN, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def fill(disk, left):
    """Takes all room but this many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(b"x" * max(0, free - left))


def says_so(done):
    said = [line for line in done.stderr.splitlines() if line.startswith("diffshield: ")]
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr, done.stderr
    assert len(said) == 1 and said[0] == done.stderr.splitlines()[-1]
    return said[0]


def scanning(tmp_path, out):
    (tmp_path / "prompts.txt").write_text("the cat\nred\na thing\nother\nthe end\n")
    return (
        "scan",
        tmp_path / "prompts.txt",
        "--out",
        out,
        "--seeds",
        60,
        "--steps",
        3,
        "--batch",
        8,
        "--device",
        "cpu",
    )


def goes_on(weights, tmp_path, out, first):
    """The stopped scan has some records and, resumed, all of them: those it had and the rest."""
    stopped = list(Run.open(out).records())
    assert 0 < len(stopped) < 300 and first.endswith(b"\n") == (out / "records.jsonl").read_bytes().endswith(b"\n")
    done = verb(weights, 0, *scanning(tmp_path, out), "--resume")
    assert done.returncode == 0, done.stderr
    records = list(Run.open(out).records())
    assert records[: len(stopped)] == stopped and len({record["id"] for record in records}) == len(records) == 300
    assert Run.open(out).status == "complete"


def test_scan_on_a_full_disk(weights, tmp_path, disk):
    fill(disk, 60_000)
    said = says_so(verb(weights, 0, *scanning(tmp_path, disk / "run")))
    assert "No space left on device" in said
    kept = (disk / "run" / "records.jsonl").read_bytes()
    assert kept.endswith(b"\n"), "half a line was left behind"
    (disk / "filler").unlink()
    goes_on(weights, tmp_path, disk / "run", kept)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits on file sizes, which POSIX has")
def test_scan_within_a_limit_on_files(weights, tmp_path):
    said = says_so(verb(weights, 30_000, *scanning(tmp_path, tmp_path / "run")))
    assert "File too large" in said and "--resume" in said
    goes_on(weights, tmp_path, tmp_path / "run", (tmp_path / "run" / "records.jsonl").read_bytes())


def test_generate_on_a_full_disk(weights, tmp_path, disk):
    drawing = (
        "generate",
        "the cat",
        "--steps",
        2,
        "--out",
        disk / "pictures",
        "--device",
        "cpu",
        "--policy",
        "monitor",
    )
    assert verb(weights, 0, *drawing).returncode == 0
    pictures = {path: path.read_bytes() for path in (disk / "pictures").iterdir()}
    assert len(pictures) == 1
    fill(disk, 0)
    assert "No space left on device" in says_so(verb(weights, 0, *drawing))
    assert "No space left on device" in says_so(verb(weights, 0, *drawing[:1], "a thing", *drawing[2:], "--compare"))
    assert {path: path.read_bytes() for path in (disk / "pictures").iterdir()} == pictures
    (disk / "filler").unlink()
    assert verb(weights, 0, *drawing).returncode == 0
    assert [Image.open(path).size for path in (disk / "pictures").iterdir()] == [(64, 64)]
