"""The training loop: exact resume, refusals that lose nothing, and survival of kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from probes.testbed.training.trainer import Limits, ResumeError, Schedule, Trainer, step_generator

SCHEDULE = Schedule(steps=12, batch=1, rate=0.05, warmup=2, ema=0.9)


def trainer(folder: Path, schedule: Schedule = SCHEDULE) -> Trainer:
    torch.manual_seed(0)
    return Trainer("line", torch.nn.Linear(3, 1), schedule, folder, {"kind": "test"})


def loss_of(made: Trainer, stop_at: int | None = None):
    def loss(step: int) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=step_generator(0, step))
        return {"loss": (made.model(x) - x.sum(1, keepdim=True)).square().mean()}

    return loss


def weights(made: Trainer) -> list[torch.Tensor]:
    state, average = made.model.state_dict(), made.average
    return [*state.values(), *(average[k] for k in state if average)]


def test_an_interrupted_training_ends_bit_equal_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    assert whole.run(loss_of(whole), Limits())
    broken = trainer(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        broken.run(loss_of(broken, stop_at=5), Limits())
    again = trainer(tmp_path / "broken")
    assert again.run(loss_of(again), Limits(resume=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_a_model_in_channels_last_resumes_bit_equal(tmp_path: Path) -> None:
    """The fused optimizer pairs memory, not indices: its state has to come back with the parameters' strides."""

    def made(folder: Path) -> Trainer:
        torch.manual_seed(0)
        model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return Trainer("conv", model, Schedule(steps=8, batch=1, rate=0.05, warmup=2), folder, {})

    def loss(trainer: Trainer, stop_at: int | None = None):
        def at(step: int) -> dict[str, torch.Tensor]:
            if step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(2, 3, 6, 6, generator=step_generator(0, step))
            return {"loss": (trainer.model(x) - x[:, :1, 1:-1, 1:-1]).square().mean()}

        return at

    whole, broken = made(tmp_path / "whole"), made(tmp_path / "broken")
    whole.run(loss(whole), Limits())
    with pytest.raises(KeyboardInterrupt):
        broken.run(loss(broken, stop_at=4), Limits())
    again = made(tmp_path / "broken")
    again.run(loss(again), Limits(resume=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_another_configuration_is_refused_and_the_checkpoint_kept(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.run(loss_of(first), Limits())
    before = (tmp_path / "line.ckpt.safetensors").read_bytes()
    other = trainer(tmp_path, Schedule(steps=12, batch=1, rate=0.5))
    with pytest.raises(ResumeError, match="another configuration .*schedule"):
        other.run(loss_of(other), Limits(resume=True))
    with pytest.raises(ResumeError, match="--resume"):
        other.run(loss_of(other), Limits())
    assert (tmp_path / "line.ckpt.safetensors").read_bytes() == before


def test_the_time_limit_leaves_a_checkpoint(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert not made.run(loss_of(made), Limits(max_minutes=0.0))
    again = trainer(tmp_path)
    again.load(resume=True)
    assert again.step == 1


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    schedule = Schedule(steps=100, batch=1, rate=1.0, warmup=10)
    assert [schedule.rate_at(s) for s in (0, 9)] == [0.1, 1.0]
    assert schedule.rate_at(55) == pytest.approx(0.55) and schedule.rate_at(100) == pytest.approx(0.1)


SLOW_RUN = """
import sys, time, torch
from pathlib import Path
from probes.testbed.training.trainer import Limits, Schedule, Trainer
torch.manual_seed(0)
made = Trainer("line", torch.nn.Linear(3, 1), Schedule(10_000, 1, 0.01), Path(sys.argv[1]), {})
def loss(step):
    time.sleep(0.005)
    return {"loss": made.model(torch.ones(1, 3)).square().mean()}
made.run(loss, Limits(checkpoint_minutes=0.001, resume=True))
"""


def test_kill_9_loses_at_most_an_interval(tmp_path: Path) -> None:
    """Killed after its first checkpoints, the file on disk is whole and newer runs go on from it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    path, log = tmp_path / "line.ckpt.safetensors", tmp_path / "line.log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 3 and path.exists()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_file(path)
    torch.manual_seed(0)
    again = Trainer("line", torch.nn.Linear(3, 1), Schedule(10_000, 1, 0.01), tmp_path, {})
    again.load(resume=True)
    logged = json.loads(log.read_text().splitlines()[-1])["step"]
    assert again.step > logged - 100
