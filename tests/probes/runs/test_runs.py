"""Run folders: exact resume, torn lines, kill -9, and one sentence for every mistake."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes.runs.folder as runs
import probes.runs.provenance as provenance
from probes.errors import RunError
from probes.runs.folder import Run, record_id
from shield import model_names
from shield.model.fingerprint import model_sha256
from tests.tiny import tiny_sd

CONFIG = {"model": "testbed", "steps": 25, "seeds": (0, 1)}


def make(folder: Path, **options: object) -> Run:
    about = {"kind": "scan", "passed": {"steps": 25}, "model": {"name": "testbed"}, "seeds": [0, 1]}
    return Run.create(folder, CONFIG, **about, **options)


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.append({"id": "a", "scores": {"noise_gap": np.float32(0.5)}, "picture": Path("pictures/a.png")})
        run.append({"id": "b", "prompt": 'Ärger\n\u2028 "quoted" \ud800'})
        run.finish()
    again = Run.open(tmp_path / "run")
    assert [r["id"] for r in again.records()] == ["a", "b"] and again.done_ids() == {"a", "b"}
    first, second = again.records()
    assert first["scores"]["noise_gap"] == 0.5 and first["picture"] == "pictures/a.png"
    assert second["prompt"] == 'Ärger\n\u2028 "quoted" \ud800'
    assert again.status == "complete" and again.config == {"model": "testbed", "steps": 25, "seeds": [0, 1]}
    assert again.about["passed"] == {"steps": 25} and again.about["versions"]["numpy"] == np.__version__
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize(
    "stop, status", [(None, "partial"), (ValueError("boom"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_the_status_says_how_a_run_ended(tmp_path: Path, stop: BaseException | None, status: str) -> None:
    try:
        with make(tmp_path / "run"):
            if stop:
                raise stop
    except (ValueError, KeyboardInterrupt):
        pass
    run = Run.open(tmp_path / "run")
    assert run.status == status
    assert (run.about["error"] is None) == (stop is None)


record = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1),
        "prompt": st.text(),
        "seed": st.none() | st.integers(),
        "scores": st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    }
)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(record, min_size=1, max_size=5), data=st.data())
def test_cutting_the_file_anywhere_loses_only_the_cut_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run") / "run"
    with make(folder) as run:
        for one in records:
            run.append(one)
    path = folder / "records.jsonl"
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole) - 1))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    assert list(Run.open(folder).records()) == records[:complete]
    with Run.resume(folder, CONFIG) as run:
        for one in records[complete:]:
            run.append(one)
    assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        run.append({"id": "a"})
    with open(tmp_path / "run/records.jsonl", "ab") as file:
        file.write(b'{"id": "b"\n{"id": "c"}\n')
    with pytest.raises(RunError, match="line 2 is no record"):
        list(Run.open(tmp_path / "run").records())
    with pytest.raises(RunError, match="damaged"):
        Run.resume(tmp_path / "run", CONFIG)
    assert (tmp_path / "run/records.jsonl").read_bytes().endswith(b'{"id": "c"}\n'), "nothing may be cut off"


prompts = st.text(max_size=40)


@given(one=st.tuples(prompts, st.none() | st.integers()), other=st.tuples(prompts, st.none() | st.integers()))
def test_ids_are_equal_exactly_for_equal_work(one: tuple, other: tuple) -> None:
    first, second = (record_id(CONFIG, *work) for work in (one, other))
    assert (first == second) == (one == other)
    assert len(first) == 16


def test_ids_depend_on_everything_but_not_on_the_order_of_options() -> None:
    base = record_id({"a": 1, "b": [2]}, "p", 0, stage="before")
    assert base == record_id({"b": (2,), "a": 1}, "p", 0, stage="before")
    assert base == record_id({"a": 1, "b": [2]}, "p", np.int64(0), stage="before")
    config = {"a": 1, "b": [2]}
    others = [
        record_id({**config, "a": 2}, "p", 0, stage="before"),
        record_id(config, "q", 0, stage="before"),
        record_id(config, "p", 1, stage="before"),
        record_id(config, "p", 0, stage="pruned"),
        record_id(config, "p", None, stage="before"),
    ]
    assert len({base, *others}) == 6


def test_an_id_is_the_same_in_another_process() -> None:
    code = "from probes.runs.folder import record_id; print(record_id({'b': 1, 'a': 2}, 'a cat', 7, stage='scan'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {record_id({"a": 2, "b": 1}, "a cat", 7, stage="scan")}


def test_resume_with_another_configuration_names_the_difference(tmp_path: Path) -> None:
    make(tmp_path / "run").finish("interrupted")
    before = (tmp_path / "run/run.json").read_bytes()
    with pytest.raises(RunError, match="steps was 25, now 50") as caught:
        Run.resume(tmp_path / "run", {**CONFIG, "steps": 50})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_resume_notices_that_an_input_changed(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    make(tmp_path / "run", inputs=[provenance.describe_input(prompts)]).finish("interrupted")
    Run.resume(tmp_path / "run", CONFIG, inputs=[provenance.describe_input(prompts)]).finish("interrupted")
    prompts.write_text("a dog\n")
    with pytest.raises(RunError, match="inputs of .* have changed"):
        Run.resume(tmp_path / "run", CONFIG, inputs=[provenance.describe_input(prompts)])


def test_a_run_of_another_model_is_not_resumed(tmp_path: Path) -> None:
    """Weights in another precision are the same model; what an older version wrote isn't compared."""
    pipe = tiny_sd(seed=21)
    one = {"name": "mine", "sha256": model_sha256(pipe.unet)}
    Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan", model=one).finish("interrupted")
    model_names._met.clear()
    model_names._exact.clear()
    other = {"name": "mine", "sha256": model_sha256(tiny_sd(seed=22).unet)}
    with pytest.raises(RunError, match="other weights than mine has now"):
        Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan", model=other)
    same = {"name": "mine", "sha256": model_sha256(pipe.unet.to(torch.bfloat16))}
    Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan", model=same).finish("interrupted")
    about = json.loads((tmp_path / "run/run.json").read_text())
    del about["model"]["values"]
    (tmp_path / "run/run.json").write_text(json.dumps(about))
    Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan", model=other).finish()


def test_start_resumes_only_when_asked(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan").finish()
    Run.start(tmp_path / "run", CONFIG, resume=True, kind="scan").finish()
    with pytest.raises(RunError, match="Add --resume"):
        Run.start(tmp_path / "run", CONFIG, resume=False, kind="scan")
    assert len(Run.open(tmp_path / "run").about["resumed"]) == 1


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with make(tmp_path / "run"):
        with pytest.raises(RunError, match="Another process"):
            Run.resume(tmp_path / "run", CONFIG)
    Run.resume(tmp_path / "run", CONFIG).finish()


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "not a run folder"),
        ("", "can't be read"),
        ('{"schema": 1, "sta', "can't be read"),
        ("[]", "no schema"),
        ("{}", "no schema"),
        (json.dumps({"schema": runs.SCHEMA + 1}), "newer version"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_folders_that_are_no_readable_run(tmp_path: Path, text: str | bytes | None, says: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=says) as caught:
        Run.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_output_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="Can't write to"):
        make(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="Can't write"):
        runs.write_json(tmp_path / "nowhere" / "a.json", {})


FULL = """
import resource, sys
from probes.runs.folder import Run
from probes.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with Run.create(sys.argv[1], {}, kind="test") as run:
        for seed in range(100):
            run.append({"id": str(seed), "filler": "x" * 3000})
except RunError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="needs a limit on file sizes, which POSIX has")
    command = [sys.executable, "-c", FULL, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert os.strerror(errno.EFBIG) in done.stdout and "--resume" in done.stdout and done.stdout.count("\n") == 1
    assert (tmp_path / "run/records.jsonl").read_bytes().endswith(b"\n"), "half a line was left behind"
    run = Run.resume(tmp_path / "run", {})
    assert run.done_ids() == {"0", "1", "2", "3", "4", "5"}


def test_a_number_that_isnt_finite_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with make(tmp_path / "run") as run:
        with pytest.raises(RunError, match="isn't finite"):
            run.append({"id": "a", "scores": {"x": float("nan")}})
        with pytest.raises(RunError, match="needs an id"):
            run.append({"prompt": "a cat"})
        assert not run.done_ids()
    with pytest.raises(RunError, match="reading only"):
        Run.open(tmp_path / "run").append({"id": "a"})


WRITER = """
import sys
from pathlib import Path
from probes.runs.folder import Run, record_id
config = {"work": "count"}
with Run.start(Path(sys.argv[1]), config, resume=True, kind="test") as run:
    done = run.done_ids()
    for seed in range(int(sys.argv[2])):
        key = record_id(config, "count", seed)
        if key not in done:
            run.append({"id": key, "seed": seed, "filler": "x" * 3000})
    run.finish()
"""


def test_a_run_killed_again_and_again_ends_like_one_that_wasnt(tmp_path: Path) -> None:
    total, folder = 4000, tmp_path / "run"
    command = [sys.executable, "-c", WRITER, str(folder), str(total)]
    records = folder / "records.jsonl"
    for _ in range(4):
        size = records.stat().st_size if records.exists() else 0
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if records.exists() and records.stat().st_size > size + 50_000:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = Run.open(folder)
    assert killed.status == "running" and 0 < len(killed.done_ids()) < total, "the test must kill it on its way"
    subprocess.run(command, check=True)
    assert [r["seed"] for r in Run.open(folder).records()] == list(range(total))
    assert Run.open(folder).status == "complete"


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = provenance.sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = provenance.sha256_of(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, provenance.sha256_of(tmp_path)}) == 3
    with pytest.raises(RunError, match="no file or folder"):
        provenance.describe_input(tmp_path / "missing")
