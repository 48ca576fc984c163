"""Thresholds of this machine: found again by checkpoint and setting, made once, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shield.calibration.store import Store, default_folder, digest, home
from shield.errors import BadRequestError, NotCalibratedError
from shield.thresholds import Setting, Threshold, found

ROOT = Path(__file__).resolve().parents[3]
SETTING = Setting("abc", (4, 8, 8), (999.0,), 25, 5.0, "DDIMScheduler", "epsilon", "float32")


@dataclass(frozen=True)
class Scorer:
    name: str = "noise_gap"
    first_k: int = 1


def threshold(value=0.5, setting=SETTING, options=None):
    options = {"name": "noise_gap", "first_k": 1} if options is None else options
    return Threshold("noise_gap", options, "tiny", setting, value, 0.01, 99, (0.4, 0.6), {"prompts": 99})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "thresholds")


def test_home_is_the_users_data_folder_or_the_one_named(monkeypatch, tmp_path):
    monkeypatch.delenv("DIFFSHIELD_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if sys.platform == "linux":
        assert home() == tmp_path / "data" / "diffshield"
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "own"))
    assert home() == tmp_path / "own" and Store().folder == default_folder() == tmp_path / "own" / "thresholds"


def test_what_is_kept_is_found_under_its_names_alone(store):
    assert store.kept("abc", SETTING) == []
    store.keep("abc", SETTING, [threshold()])
    assert store.kept("abc", SETTING) == [threshold()]
    assert store.kept("abd", SETTING) == store.kept("abc", replace(SETTING, steps=26)) == []
    store.keep("abc", SETTING, [threshold(0.7)])
    assert store.kept("abc", SETTING) == [threshold(0.7)]
    assert [path.name for path in (store.folder / digest("abc")).iterdir()] == [digest(SETTING)]


def test_a_users_threshold_is_found_before_the_shipped_one(store):
    shipped = [threshold(0.1)]
    assert found(store.before("abc", shipped), Scorer(), SETTING).value == 0.1
    store.keep("abc", "first", [threshold(0.2)])
    os.utime(store.entry("abc", "first"), (1, 1))
    store.keep("abc", "second", [threshold(0.3)])
    store.keep("other", "first", [threshold(0.4)])
    assert [t.value for t in store.before("abc", shipped)] == [0.3, 0.2, 0.1]
    assert found(store.before("abc", shipped), Scorer(), SETTING).value == 0.3
    with pytest.raises(NotCalibratedError):
        found(store.before("abc", []), Scorer(), replace(SETTING, latent_shape=(4, 16, 16)))


def test_names_are_equal_for_equal_settings():
    same = ({"steps": 3, "size": (8, 8)}, {"size": [8, 8], "steps": 3})
    assert digest(same[0]) == digest(same[1]) != digest({"steps": 4, "size": [8, 8]})
    assert digest([SETTING]) == digest([replace(SETTING)]) != digest([replace(SETTING, dtype="float16")])
    assert digest(SETTING) != digest(Scorer()) and digest(frozenset("ab")) == digest({"b", "a"})
    with pytest.raises(BadRequestError, match="a object was given"):
        digest(object())


def test_made_once_makes_only_what_is_missing(store):
    made = []
    for _ in range(2):
        assert store.made_once("abc", SETTING, lambda: made.append(1) or [threshold()]) == [threshold()]
    assert made == [1]


def test_an_error_keeps_nothing_and_frees_the_lock(store):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.made_once("abc", SETTING, fail)
    assert store.kept("abc", SETTING) == []
    assert store.made_once("abc", SETTING, lambda: [threshold()]) == [threshold()]


@pytest.mark.parametrize("damage", ["", "{", '{"format": 99}'])
def test_a_damaged_entry_is_made_anew(store, damage):
    next(store.keep("abc", SETTING, [threshold()]).iterdir()).write_text(damage)
    with pytest.warns(UserWarning, match="left out"):
        assert store.made_once("abc", SETTING, lambda: [threshold(0.9)]) == [threshold(0.9)]
    assert store.kept("abc", SETTING) == [threshold(0.9)]


def test_without_a_folder_to_write_to_thresholds_hold_for_this_process(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "thresholds")
    with pytest.warns(UserWarning, match="can't be kept .* DIFFSHIELD_HOME"):
        assert store.made_once("abc", SETTING, lambda: [threshold()]) == [threshold()]
    assert store.of_checkpoint("abc") == []


PROCESS = """
import sys, time
from pathlib import Path
from shield.calibration.store import Store
from tests.shield.calibration.test_store import SETTING, threshold

def make():
    with open(sys.argv[2], "a") as log:
        log.write(sys.argv[3] + chr(10))
    time.sleep(float(sys.argv[4]))
    return [threshold(float(sys.argv[3]))]

print("ready", flush=True)
sys.stdin.readline()
made = Store(Path(sys.argv[1])).made_once("abc", SETTING, make, lambda: print("waits", flush=True))
print(made[0].value, flush=True)
"""


def started(store, log, value, seconds):
    """A process that has loaded what it needs and waits for a line to begin."""
    command = [sys.executable, "-c", PROCESS, str(store.folder), str(log), str(value), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    return process


def begun(*processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def test_two_processes_make_an_entry_once(store, tmp_path):
    log = tmp_path / "log"
    pair = [started(store, log, value, 1.0) for value in (1.5, 2.5)]
    begun(*pair)
    said = [process.communicate(timeout=60)[0].split() for process in pair]
    made = log.read_text().split()
    assert len(made) == 1 and {words[-1] for words in said} == set(made)
    assert sorted(len(words) for words in said) == [1, 2] and "waits" in said[0] + said[1]


def test_a_process_that_is_killed_leaves_the_work_to_the_next(store, tmp_path):
    log = tmp_path / "log"
    first, second = started(store, log, 1.5, 60.0), started(store, log, 2.5, 0.0)
    begun(first)
    while not log.exists():
        time.sleep(0.01)
    (store.folder / digest("abc") / f"{digest(SETTING)}.x.part").mkdir()
    begun(second)
    assert second.stdout.readline() == "waits\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate(timeout=60)[0] == "2.5\n"
    assert store.kept("abc", SETTING) == [threshold(2.5)] and log.read_text().split() == ["1.5", "2.5"]
    assert sorted(path.suffix for path in (store.folder / digest("abc")).iterdir()) == ["", ".lock"]


def test_reading_warns_of_nothing_where_nothing_is_wrong(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.made_once("abc", SETTING, lambda: [threshold()])
        assert store.of_checkpoint("abc") == [threshold()] and store.of_checkpoint("none") == []
