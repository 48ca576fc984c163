"""kill -9 at random moments, again and again: scan, attack and harden go on and end as if nothing had happened."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from probes.attacks import AdversarialEmbedding
from probes.audit.plan import Hardening
from probes.audit.request import AuditRequest
from probes.drawing.draw import Sampling
from probes.hardeners import AdversarialFineTuning
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes
from probes.localizers import RandomMask
from probes.runs.folder import Run
from probes.scan.scan import scan
from probes.types import Subject
from probes.verbs.attack import ATTACK, attack
from probes.verbs.harden import HARDEN, harden
from tests.tiny import tiny_sd

KILLS = 20
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("shipped"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork and signals"),
]


@pytest.fixture(scope="module")
def start(weights):
    """Starts a process that does some work. A server forks it that has imported everything and computed nothing, as
    the threads of a process that has would leave a child hanging."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"])

    def started(work):
        process = server.Process(target=_do, args=(str(weights), work))
        process.start()
        return process

    return started


def _do(weights, work):
    os.environ["DIFFSHIELD_WEIGHTS"] = weights
    torch.set_num_threads(1)
    work()


def ended(process):
    """Exit status, negative for a signal."""
    process.join()
    return process.exitcode


def killed_again_and_again(start, work, folder, seconds):
    """Kill the work KILLS times before it has ended, then let it end.

    Mostly a random while after it has written something new, now and then blindly. ``seconds`` is what it takes. Work
    that ended before it was killed begins anew in an empty folder.
    """
    draw, kills, tries = random.Random(0), 0, 0
    while kills < KILLS:
        tries += 1
        assert tries <= 3 * KILLS, f"only {kills} of {tries} kills came before the end"
        before, process = written(folder), start(work)
        blind = draw.random() < 0.3
        until = time.monotonic() + (draw.uniform(0, seconds / 5) if blind else 10 * seconds + 60)
        while process.is_alive() and time.monotonic() < until and (blind or written(folder) == before):
            time.sleep(0.005)
        if process.is_alive() and not blind:
            time.sleep(draw.uniform(0, seconds / 30))
        process.kill()
        status = ended(process)
        assert status in (0, -signal.SIGKILL), "a resumed run failed"
        kills += status != 0
        if status == 0:
            shutil.rmtree(folder)
    assert ended(start(work)) == 0


def written(folder):
    """Changes with whatever is written to the folder."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a temporary file that has been renamed meanwhile
            found[path] = path.stat().st_mtime_ns
    return found


def taken(start, work):
    began = time.monotonic()
    assert ended(start(work)) == 0
    return time.monotonic() - began


def same_runs(one, other):
    """The same records in the same order, none twice, and the same pictures and embeddings, to the byte."""
    ours, theirs = (list(Run.open(folder).records()) for folder in (one, other))
    assert ours == theirs and len({record["id"] for record in ours}) == len(ours)
    files = 0
    for pattern in ("pictures/**/*.png", "embeddings/**/*.safetensors"):
        names = [sorted(path.relative_to(folder) for path in folder.glob(pattern)) for folder in (one, other)]
        assert names[0] == names[1]
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names[0])
        files += len(names[0])
    figures = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert [Run.open(folder).status for folder in (one, other)] == ["complete", "complete"]
    for key in figures[0].keys() - {"cost"}:
        assert figures[0][key] == figures[1][key], key
    print(f"killed {KILLS} times: {len(ours)} records and {files} files equal to the whole run's")
    return ours


def test_scan(tmp_path, start):
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\nred\na thing\nother\nthe end\n")

    def work(name):
        return partial(
            scan,
            file,
            tmp_path / name,
            sampling=Sampling(3, 5.0, 2),
            seeds=range(40),
            device="cpu",
            resume=True,
            show_progress=False,
        )

    killed_again_and_again(start, work("cut"), tmp_path / "cut", taken(start, work("whole")))
    assert len(same_runs(tmp_path / "cut", tmp_path / "whole")) == 200
    tables = [parquet.read_table(tmp_path / name / "results.parquet") for name in ("cut", "whole")]
    assert tables[0].equals(tables[1])


def test_attack(tmp_path, start):
    RandomMask(density=0.1).locate(Subject(tiny_sd(), "tiny")).mask.save(tmp_path / "mask.safetensors")
    plan = replace(
        ATTACK,
        sizes=Sizes(members=2, nonmembers=2, scenes=0),
        picture_seeds=(1, 2, 3),
        sampling=Sampling(2, 5.0, 2),
        attack=AdversarialEmbedding(rows=1),
    )

    def work(name):
        return partial(
            attack,
            tmp_path / name,
            AuditRequest(device="cpu"),
            mask=tmp_path / "mask.safetensors",
            plan=plan,
            steps=(0, 1, 2, 4),
            batch=1,
            resume=True,
            show_progress=False,
        )

    killed_again_and_again(start, work("cut"), tmp_path / "cut", taken(start, work("whole")))
    records = same_runs(tmp_path / "cut", tmp_path / "whole")
    assert sum(record["stage"] == "attacked" for record in records) == 2 * 3 * 4


def test_harden(tmp_path, start):
    hardening = Hardening(
        members=2,
        dev=1,
        keep=3,
        tries=2,
        hardener=AdversarialFineTuning(keep_batch=2, draws=1, attack=AdversarialEmbedding(steps=1, batch=1)),
        schedule=FineTuning(epochs=4, updates=1, lr=1e-3, batch=1, checkpoint_every=1),
    )
    plan = replace(
        HARDEN,
        sizes=Sizes(members=2, nonmembers=1, scenes=1),
        picture_seeds=(1,),
        hardening=hardening,
        sampling=Sampling(2, 5.0, 2),
        attack=AdversarialEmbedding(steps=2, batch=1),
    )

    def work(name):
        return partial(
            harden,
            tmp_path / name,
            AuditRequest(device="cpu"),
            plan=plan,
            steps=(0, 2),
            resume=True,
            show_progress=False,
        )

    killed_again_and_again(start, work("cut"), tmp_path / "cut", taken(start, work("whole")))
    same_runs(tmp_path / "cut", tmp_path / "whole")
    weights = [load_file(tmp_path / name / "harden" / "hardened.safetensors") for name in ("cut", "whole")]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
