"""Scans as streams: the same records whatever the batch, the engine, the shards and the interruptions."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from probes.cli.main import app
from probes.drawing.draw import Job, Sampling
from probes.errors import EarlyExitError, EngineError, MemoryFullError, PromptFileError, RunError, ShardError
from probes.inputs.prompts import PromptRecord
from probes.model.batches import best_batch
from probes.runs.folder import Run
from probes.scan.engines import InProcess
from probes.scan.figures import KEPT, Spread
from probes.scan.pilot import EarlyExit
from probes.scan.scan import ExecutionConfig, PromptSource, scan
from probes.scan.scorer import PromptScorer, ScoringConfig
from probes.scan.shards import Shard, launched
from probes.testbed.checkpoint import Checkpoint
from shield.calibration.detectors import NegativeSampling as Calibration
from shield.calibration.detectors import calibrate
from shield.detectors import StructureGap
from shield.errors import BadRequestError, NotCalibratedError
from shield.model.loading import load
from shield.thresholds import save_threshold
from tests.probes.tiny_testbed import tiny_testbed

pytestmark = pytest.mark.usefixtures("shipped")

PROMPTS = [f"{word} {number}" for number in range(30) for word in ("the cat", "red")]
SHORT = Sampling(3, 5.0, 4)
SEEDS = (500, 501, 502, 503)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """With a threshold in the middle of the scores, so that many prompts are near it."""
    folder = tiny_testbed(tmp_path_factory.mktemp("weights"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFSHIELD_WEIGHTS", str(folder))
        pipe = load("testbed", device="cpu")
        (made,) = calibrate(pipe, [StructureGap()], PROMPTS[:20], SEEDS, 0.4, "testbed", Calibration(3, 5.0, 8))
    save_threshold(replace(made, value=1.0003 * made.value), folder / "thresholds")  # equal to no score
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


def run(file, out, **options):
    return scan(file, out, **{"sampling": SHORT, "device": "cpu", "show_progress": False, "seeds": SEEDS, **options})


@contextmanager
def interrupted(after):
    """Ctrl-C in place of the record that follows the first `after`, in whatever run."""
    append, left = Run.append, [after]

    def stops(self, record):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        append(self, record)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "append", stops)
        yield


def records(folder):
    return list(Run.open(folder).records())


def same(ours, theirs, rel=1e-4):
    """The same records in the same order; scores within rounding."""
    assert [r["id"] for r in ours] == [r["id"] for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert {**one, "scores": 0, "prompt_score": 0} == {**other, "scores": 0, "prompt_score": 0}
        assert one["scores"] == pytest.approx(other["scores"], rel=rel, abs=1e-6)


def test_records_dont_depend_on_the_batch(file, tmp_path):
    one, other = (run(file, tmp_path / str(batch), execution=ExecutionConfig(batch_size=batch)) for batch in (3, 16))
    same(records(one.folder), records(other.folder))
    assert [r["prompt"] for r in records(one.folder)] == [prompt for prompt in PROMPTS for _ in SEEDS]
    assert one.summary["cost"][0]["evaluations"] == len(PROMPTS) * len(SEEDS) + len(SEEDS)
    assert Run.open(one.folder).about["hardware"]["batch_size"] == 3


def test_an_interrupted_scan_goes_on_with_what_is_missing(file, tmp_path):
    whole = run(file, tmp_path / "whole")
    with interrupted(37):
        run(file, tmp_path / "cut")
    assert len(records(tmp_path / "cut")) == 37
    again = run(file, tmp_path / "cut", resume=True)
    assert records(tmp_path / "cut") == records(whole.folder)  # to the last digit
    assert again.summary["cost"][0]["evaluations"] < whole.summary["cost"][0]["evaluations"] + 3 * SHORT.batch_size + 8
    with pytest.raises(RunError, match="another configuration"):
        run(file, tmp_path / "cut", resume=True, seeds=(1,))


def test_early_exit_decides_like_all_seeds_and_pays_less(file, tmp_path):
    whole = run(file, tmp_path / "whole")
    early = run(file, tmp_path / "early", early_exit=EarlyExit(0.05))
    limit = early.summary["early_exit"]["threshold"]
    means = {}
    for record in records(whole.folder):
        means.setdefault(record["item"], []).append(record["scores"]["structure_gap"])
    decided = {r["item"]: r["prompt_flagged"] for r in records(early.folder)}
    assert decided.keys() == means.keys()
    assert sum((sum(v) / 4 > limit) != decided[item] for item, v in means.items()) <= 0.05 * len(PROMPTS)
    figures = early.summary["early_exit"]
    assert figures["saved"] == len(PROMPTS) * 4 - len(records(early.folder)) > 0
    assert figures["above"] + figures["below"] == len(PROMPTS) and figures["pilot_scores"] == 60 * 4
    assert sum(figures["stopped_after"].values()) == len(PROMPTS)
    assert early.summary["cost"][0]["evaluations"] == len(records(early.folder)) + 4
    ours = {record["id"]: record["scores"] for record in records(early.folder)}
    assert len(ours) == len(records(early.folder))
    table = parquet.read_table(early.table).to_pylist()
    assert {row["prompt_flagged"] for row in table} == {True, False}


def test_early_exit_interrupted_equals_the_whole(file, tmp_path):
    run(file, tmp_path / "whole", early_exit=EarlyExit(0.05))
    with interrupted(60 * 4 + 45):  # the pilot's records come first
        run(file, tmp_path / "cut", early_exit=EarlyExit(0.05))
    assert len(records(tmp_path / "cut")) == 45
    run(file, tmp_path / "cut", early_exit=EarlyExit(0.05), resume=True)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_a_pilot_has_to_fit(file, tmp_path):
    with pytest.raises(EarlyExitError, match="needs a pilot of 99 prompts, and there are 60"):
        run(file, tmp_path / "a", early_exit=EarlyExit(0.01))
    run(file, tmp_path / "pilot", seeds=(1, 2))
    with pytest.raises(EarlyExitError, match="another seeds"):
        run(file, tmp_path / "b", early_exit=EarlyExit(0.05, tmp_path / "pilot"))
    done = run(file, tmp_path / "c", seeds=(1, 2), early_exit=EarlyExit(0.05, tmp_path / "pilot"))
    assert done.summary["early_exit"]["pilot_prompts"] == 60 and not (tmp_path / "c" / "pilot").exists()
    with pytest.raises(NotCalibratedError, match="threshold of noise_gap"):
        run(file, tmp_path / "d", detectors=("noise_gap",), early_exit=EarlyExit(0.05))
    with pytest.raises(BadRequestError, match="between 0 and 0.5"):
        EarlyExit(0.0)
    assert not any((tmp_path / name / "run.json").exists() for name in "abd")


@pytest.mark.parametrize("early", [None, EarlyExit(0.05)])
def test_shards_merge_to_the_run_of_one_process(file, tmp_path, early):
    whole = run(file, tmp_path / "whole", early_exit=early)
    folders = [Shard(index, 3).folder(tmp_path / "parts") for index in range(3)]
    for index, folder in enumerate(folders):
        run(file, folder, shard=Shard(index, 3), early_exit=early)
    done = CliRunner().invoke(app, ["merge", *map(str, reversed(folders)), "--out", str(tmp_path / "merged"), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    same(records(tmp_path / "merged"), records(whole.folder))
    found = json.loads(done.stdout)["summary"]
    assert found["cost"][0]["evaluations"] == whole.summary["cost"][0]["evaluations"] + 2 * 4  # each shard's own seeds
    assert Run.open(tmp_path / "merged").config == Run.open(whole.folder).config
    assert found["flagged"] == whole.summary["flagged"] and found["threshold"] == whole.summary["threshold"]


def test_shards_that_dont_belong_together(file, tmp_path):
    from probes.scan.merge import merge

    for index in range(2):
        run(file, tmp_path / str(index), shard=Shard(index, 2), limit=6)
    run(file, tmp_path / "other", shard=Shard(1, 2), limit=5)
    run(file, tmp_path / "whole", limit=6)
    for folders, why in (
        (["0"], "given: 0"),
        (["0", "0"], "given: 0, 0"),
        (["0", "other"], "aren't shards of one"),
        (["0", "whole"], "isn't a shard"),
        ([], "given: none"),
    ):
        with pytest.raises(ShardError, match=why):
            merge([tmp_path / name for name in folders], tmp_path / "merged")
    second = Run.open(tmp_path / "1")
    second._update({**second.about, "status": "interrupted"})
    with pytest.raises(ShardError, match="interrupted, not complete"):
        merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_shards_are_named_by_their_launcher():
    assert Shard.parsed("2/8") == Shard(2, 8) and list(Shard(1, 3).own("abcdefgh")) == ["b", "e", "h"]
    assert [Shard(index, 3).count(8) for index in range(3)] == [3, 3, 2] and Shard(5, 8).count(2) == 0
    assert launched({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == (Shard(3, 4), 1)
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == (Shard(0, 2), 0)
    for wrong in ("3/3", "1", "a/b", "-1/2", "/2"):
        with pytest.raises(BadRequestError):
            Shard.parsed(wrong)
    with pytest.raises(BadRequestError, match="none are set"):
        launched({})


def test_torchruns_processes_write_shards(file, tmp_path, monkeypatch):
    for rank in ("0", "1"):
        for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(
            app,
            [
                "scan",
                str(file),
                "--out",
                str(tmp_path / "out"),
                "--engine",
                "torchrun",
                "--limit",
                "5",
                "--steps",
                "3",
                "--device",
                "cpu",
            ],
        )
        assert done.exit_code == 0, (done.output, done.exception)
    assert [len(records(tmp_path / "out" / f"shard-000{rank}-of-0002")) for rank in (0, 1)] == [3, 2]


def test_more_shards_than_prompts_leaves_an_empty_one(file, tmp_path):
    done = run(file, tmp_path / "run", limit=2, shard=Shard(2, 3))
    assert records(done.folder) == [] and done.summary["scores"]["structure_gap"]["n"] == 0


def test_a_file_is_read_once_unless_it_is_long(tmp_path, monkeypatch):
    file = tmp_path / "p.txt"
    file.write_text("the cat\nred\n")
    prompts = PromptSource(file, Checkpoint.of("testbed"))
    monkeypatch.setattr("probes.scan.scan.HELD", 1)
    longer = PromptSource(file, Checkpoint.of("testbed"))
    file.unlink()
    assert [one.prompt for one in prompts] == ["the cat", "red"] and (prompts.first.prompt, prompts.count) == (
        "the cat",
        2,
    )
    assert (longer.first.prompt, longer.count) == ("the cat", 2)
    with pytest.raises(PromptFileError, match="no prompt file"):
        list(longer)


def test_a_limit_holds_for_the_testbed_s_own_prompts_too():
    whole, some = PromptSource(None, Checkpoint.of("testbed")), PromptSource(None, Checkpoint.of("testbed"), limit=6)
    assert whole.count > some.count == len(list(some)) == 6 and list(some) == list(whole)[:6]


def test_options_that_dont_go_together(file, tmp_path):
    for options in ({"shard": Shard(0, 2)}, {"early_exit": EarlyExit(0.05)}, {"execution": ExecutionConfig("ray")}):
        with pytest.raises(BadRequestError, match="leave --pictures out"):
            run(file, tmp_path / "run", pictures=True, **options)
    with pytest.raises(BadRequestError, match="no engine 'x'"):
        run(file, tmp_path / "run", execution=ExecutionConfig("x"))
    with pytest.raises(EngineError, match="one worker, not 2"):
        run(file, tmp_path / "run", execution=ExecutionConfig(workers=2))
    assert not (tmp_path / "run").exists()


def test_memory_layout_changes_rounding_alone(file, tmp_path):
    plain, other = (
        run(file, tmp_path / name, limit=8, execution=ExecutionConfig(batch_size=4, channels_last=layout))
        for name, layout in (("plain", False), ("last", True))
    )
    same(records(plain.folder), records(other.folder))


def test_another_precision_is_another_scan(file, tmp_path):
    """Its noise is drawn in that precision, so a seed stands for another picture."""
    done = run(file, tmp_path / "half", limit=8, execution=ExecutionConfig(batch_size=4, dtype="bfloat16"))
    assert done.summary["scores"]["structure_gap"]["n"] == 8 * len(SEEDS)
    with pytest.raises(RunError, match='dtype was "bfloat16", now null'):
        run(file, tmp_path / "half", limit=8, resume=True)


def test_memory_that_is_full_halves_the_batch_for_good(file):
    config = ScoringConfig("testbed", ("structure_gap",), sampling=SHORT, batch_size=8, device="cpu")
    scorer = PromptScorer(config)
    with InProcess(config) as engine:
        turns = [(Job(PromptRecord(str(n), prompt), 500),) for n, prompt in enumerate(PROMPTS[:8])]
        engine.started(turns[0][0].target)
        whole = engine.scorer.score(turns)
    scorer.started(turns[0][0].target)
    sizes, draw = [], scorer.draw

    def full(jobs):
        sizes.append(len(jobs))
        if len(jobs) > 3:
            raise torch.OutOfMemoryError("full")
        return draw(jobs)

    scorer.draw = full
    with pytest.warns(UserWarning, match="going on with"):
        halved = scorer.score(turns)
    assert sizes == [8, 4, 2, 2, 2, 2] and scorer.batch_size == 2
    for (one,), (other,) in zip(whole.rows, halved.rows, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)


def test_the_best_batch_fits_and_pays(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("probes.model.batches.time.perf_counter", lambda: clock[0])

    def work(size):  # up to 8 rows at once cost what one does
        if size > 100:
            raise torch.OutOfMemoryError("full")
        clock[0] += -(-size // 8)

    assert best_batch(work) == 8 and best_batch(work, largest=4) == 4
    assert best_batch(lambda size: work(16 * size)) == 1
    with pytest.raises(MemoryFullError):
        best_batch(lambda size: work(200))


def test_a_median_stays_exact_until_it_is_a_sample():
    spread = Spread()
    for value in range(KEPT + 1):
        spread.add(float(value))
        if value == 4:
            assert spread.figures(7) == {"n": 5, "unscored": 2, "median": 2.0, "highest": 4.0}
    assert len(spread.kept) == KEPT and abs(spread.figures(0)["median"] / KEPT - 0.5) < 0.01


def test_reading_keeps_the_weights_folder(weights):
    assert ScoringConfig("testbed", ("noise_gap",)).places["DIFFSHIELD_WEIGHTS"] == str(weights)
    assert replace(ScoringConfig("testbed", ("anisotropy", "noise_gap")), steps=1).scorers()[0].name == "anisotropy"
