"""Workers on Ray: the same records for any number of them, and a killed one loses nothing."""

import os
import signal

import pytest

from probes.drawing.draw import Sampling
from probes.errors import EngineError
from probes.runs.folder import Run
from probes.scan.engines import RayActors
from probes.scan.scan import ExecutionConfig, scan
from probes.scan.stream import turns_of
from shield.errors import WeightsError

pytest.importorskip("ray", reason="needs the extra ray: pip install ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("shipped")]
PROMPTS = [f"{word} {number}" for number in range(40) for word in ("the cat", "red")]
SEEDS = (4, 5)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


def run(file, out, **options):
    return scan(file, out, sampling=Sampling(3, 5.0, 4), device="cpu", show_progress=False, seeds=SEEDS, **options)


def lines(folder):
    return (folder / "records.jsonl").read_bytes()


def test_the_same_records_for_any_number_of_workers(file, tmp_path):
    whole = run(file, tmp_path / "local")
    for workers in (1, 2):
        done = run(file, tmp_path / str(workers), execution=ExecutionConfig("ray", workers, batch_size=4))
        assert lines(done.folder) == lines(whole.folder)
        spent = done.summary["cost"][0]["evaluations"]
        assert len(PROMPTS) * 2 + 2 <= spent <= len(PROMPTS) * 2 + 2 * workers
    assert Run.open(tmp_path / "2").status == "complete"


def living(engine):
    """Process id of a worker that isn't dead yet, whether or not the engine has noticed."""
    for worker in engine.workers:
        try:
            return engine._ray.get(worker.pid.remote())
        except engine._lost:
            continue
    raise AssertionError("no worker lives")


def test_a_killed_worker_loses_nothing(file, tmp_path, monkeypatch):
    whole = run(file, tmp_path / "local")
    scored, seen = RayActors.scored, {}

    def killing(self, chunks):
        for number, found in enumerate(scored(self, chunks)):
            if number in (1, 8):
                os.kill(living(self), signal.SIGKILL)
            yield found
        seen["lost"] = self.lost

    monkeypatch.setattr(RayActors, "scored", killing)
    done = run(file, tmp_path / "run", execution=ExecutionConfig("ray", 2, batch_size=4))
    assert seen["lost"] == 2 and lines(done.folder) == lines(whole.folder)


def test_prompts_that_kill_every_worker_end_the_scan_and_it_can_go_on(file, tmp_path, monkeypatch):
    from probes.scan.engines import ray_actors

    class Deadly(ray_actors.Worker):
        def score(self, items):
            if any(item.target.id == "prompt-000009" for item in items):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(items)

    monkeypatch.setattr(ray_actors, "Worker", Deadly)
    with pytest.raises(EngineError, match="from prompt-0000.. on were with 3 workers when these were lost"):
        run(file, tmp_path / "run", execution=ExecutionConfig("ray", 2, batch_size=4))
    monkeypatch.undo()
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tmp_path / "none"))  # mistakes of a worker come back as what they are
    with pytest.raises(WeightsError):
        run(file, tmp_path / "run", execution=ExecutionConfig("ray", 2, batch_size=4), resume=True)


def test_no_more_chunks_are_taken_than_there_is_room_for(file):
    from probes.inputs.prompts import read_prompts
    from probes.scan.scorer import ScoringConfig

    taken = []

    def chunks():
        for turn in turns_of(read_prompts(file), SEEDS, together=False):
            taken.append(turn)
            yield [turn]

    config = ScoringConfig("testbed", ("noise_gap",), sampling=Sampling(3, 5.0, 4), batch_size=4, device="cpu")
    with RayActors(config, 1) as engine:
        engine.started(read_prompts(file)[0])
        for number, _ in enumerate(engine.scored(chunks())):
            assert len(taken) <= number + 6 + 2  # AHEAD, the one that is out, the one that waits
    assert len(taken) == len(PROMPTS) * 2
    with pytest.raises(EngineError, match="Ray can't be used at 'auto'"), RayActors(config, 1, "auto"):
        pass
