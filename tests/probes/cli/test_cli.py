"""The verbs: what goes to stdout and stderr, exit status, and one sentence for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from probes.cli.main import SPINS, app
from probes.runs.folder import Run
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.manifest import load_manifest
from probes.testbed.negatives import negative_captions
from probes.verbs.calibrate import calibrate_detectors
from probes.verbs.generate import GenerationRequest, side_by_side
from tests.probes.tiny_testbed import calibrating, tiny_testbed
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture

VERBS = (
    "generate",
    "scan",
    "localize",
    "prune",
    "attack",
    "locality",
    "harden",
    "audit",
    "report",
    "calibrate",
    "calibrate-copies",
    "testbed",
)


def call(*arguments: str | Path | int, **env: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={k: str(v) for k, v in env.items()})


def one_sentence(result: Result, status: int = 2) -> str:
    """What a user's mistake prints; fails on tracebacks, on several lines, and on anything on stdout."""
    assert result.exit_code == status, (result.output, result.exception)
    assert result.stdout == "" and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def weights(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder, and a user's, whose thresholds `diffshield calibrate` made for the tiny model."""
    folder = tmp_path_factory.mktemp("weights")
    done = call(
        *calibrating(folder / "negatives.txt"),
        "--model",
        model,
        "--json",
        DIFFSHIELD_WEIGHTS=folder,
        DIFFSHIELD_HOME=folder,
    )
    assert done.exit_code == 0, (done.output, done.exception)
    ((path, threshold),) = json.loads(done.stdout).items()
    assert Path(path).is_file() and Path(path).parent == folder / "thresholds"
    assert threshold["negatives"] == 21 and threshold["fpr"] == 0.05
    assert threshold["provenance"]["seeds"] == [100, 101, 102]
    return folder


def test_every_verb_explains_itself_without_loading_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from probes.cli.main import app\n"
        f"for verb in {VERBS!r}:\n"
        "    done = CliRunner().invoke(app, [verb, '--help'])\n"
        "    assert done.exit_code == 0 and 'Usage' in done.stdout, done.output\n"
        "assert 'torch' not in sys.modules, 'help must be quick'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    listed = call("--help").stdout
    assert all(verb in listed for verb in VERBS)


@pytest.mark.parametrize(
    "given, spins", [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_leave_their_cores_to_others(given: dict[str, str], spins: str | None) -> None:
    """Set before torch reads it, unless the user has."""
    code = (
        "import atexit, os, sys; sys.argv = ['diffshield', 'report', '--help']; "
        "atexit.register(lambda: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))); "
        "from ui.verb import main; main()"
    )
    usual = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**usual, **given}, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"False {spins}"


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert call("--version").stdout.strip() == version("diffusion-shield")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["generate"], ["audit"], ["generate", "a", "--steps", "0"], ["generate", "a", "--nonsense"]],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = call(*arguments)
    assert done.exit_code == 2 and done.stdout == "" and "Usage" in done.stderr


def test_generate_draws_behind_the_shield(model: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ("generate", "the cat", "--model", model, "--steps", 2, "--out", tmp_path, "--device", "cpu")
    done = call(*arguments, "--json", DIFFSHIELD_WEIGHTS=weights)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert found["prompt"] == "the cat" and found["verdict"]["scores"][0]["detector"] == "structure_gap"
    assert list(found["pictures"]) == ["shielded"] and Image.open(found["pictures"]["shielded"]).size
    text = call(*arguments, DIFFSHIELD_WEIGHTS=weights)
    assert text.stdout.startswith("shield: ") and text.stdout.strip().endswith(found["pictures"]["shielded"])


def test_generate_compares_with_the_bare_model_on_the_same_noise(model: Path, weights: Path, tmp_path: Path) -> None:
    done = call(
        "generate",
        "the cat",
        "--model",
        model,
        "--steps",
        2,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--compare",
        "--policy",
        "monitor",
        "--json",
        DIFFSHIELD_WEIGHTS=weights,
    )
    assert done.exit_code == 0, (done.output, done.exception)
    pictures = json.loads(done.stdout)["pictures"]
    assert list(pictures) == ["bare", "shielded", "side by side"]
    bare, shielded = (np.asarray(Image.open(pictures[name])) for name in ("bare", "shielded"))
    assert (bare == shielded).all(), "a policy that changes nothing must give the bare model's picture"


def test_a_flag_is_status_3_only_when_asked_for(model: Path, weights: Path, tmp_path: Path) -> None:
    """A threshold of zero flags everything."""
    strict = tmp_path / "weights"
    for path in (weights / "thresholds").glob("*.json"):
        (strict / "thresholds").mkdir(parents=True)
        stored = json.loads(path.read_text())
        (strict / "thresholds" / path.name).write_text(json.dumps({**stored, "value": 0.0, "interval": [0.0, 0.0]}))
    arguments = (
        "generate",
        "the cat",
        "--model",
        model,
        "--steps",
        2,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--policy",
        "monitor",
    )
    assert call(*arguments, DIFFSHIELD_WEIGHTS=strict).exit_code == 0
    assert call(*arguments, "--fail-on-flag", DIFFSHIELD_WEIGHTS=strict).exit_code == 3
    assert call(*arguments, "--fail-on-flag", DIFFSHIELD_WEIGHTS=weights).exit_code == 0


def test_an_uncalibrated_model_is_calibrated_at_its_first_picture(model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    (tmp_path / "weights").mkdir()
    arguments = ("generate", "the cat", "--model", model, "--steps", 2, "--out", tmp_path / "out", "--device", "cpu")
    done = call(*arguments, "--json", DIFFSHIELD_WEIGHTS=tmp_path / "weights")
    assert done.exit_code == 0, (done.output, done.exception)
    (score,) = json.loads(done.stdout)["verdict"]["scores"]
    assert score["threshold"] is not None and score["fpr"] == 0.01 and list((tmp_path / "home").rglob("*.json"))
    (tmp_path / "empty").mkdir()
    done = call(*arguments, "--thresholds", tmp_path / "empty", DIFFSHIELD_WEIGHTS=tmp_path / "weights")
    assert "diffshield calibrate" in one_sentence(done, status=1)


def test_generate_protects_names_and_pictures(model: Path, tmp_path: Path) -> None:
    """No calibration: what a policy of names looks at needs none."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "r.toml").write_text('concepts = [{ name = "Zorbo", substitute = "a toy" }]')
    base = ("generate", "Bolto and Zorbo", "--model", model, "--steps", 2, "--out", tmp_path, "--device", "cpu")

    def verdict(*more):
        done = call(*base, "--policy", "names", "--json", *more, DIFFSHIELD_WEIGHTS=tmp_path / "weights")
        assert done.exit_code == 0, (done.output, done.exception)
        (drawn,) = json.loads(done.stdout)["pictures"].values()
        return json.loads(done.stdout)["verdict"], drawn

    found, _ = verdict("--concepts", "Bolto", "--concepts", tmp_path / "r.toml")
    assert found["concepts"] == ["Bolto", "Zorbo"] and found["rewritten_prompt"] == "and a toy"
    found, drawn = verdict("--concepts", "Nobody")
    assert found["status"] == "passed"
    (tmp_path / "works").mkdir()
    Image.open(drawn).save(tmp_path / "works" / "mine.png")
    found, _ = verdict("--concepts", "Nobody", "--gallery", tmp_path / "works")
    assert found["nearest"]["work"] == "mine" and found["nearest"]["copied"] and found["status"] == "blocked"


def test_a_gallery_is_built_and_pictures_are_checked_with_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    (tmp_path / "works").mkdir()
    for n in range(3):
        tiny_picture(n).save(tmp_path / "works" / f"w{n}.png")
    tiny_picture(9).save(tmp_path / "other.png")
    built = json.loads(call("gallery", "build", tmp_path / "works", "--json").stdout)
    assert (built["pictures"], built["gallery"]) == (3, str(tmp_path / "home" / "galleries" / "works"))
    assert call("gallery", "build", tmp_path / "works", "--out", tmp_path / "g").exit_code == 0
    pictures = (tmp_path / "works" / "w1.png", tmp_path / "other.png")
    for place in ("works", tmp_path / "g"):
        found = json.loads(call("gallery", "check", *pictures, "--gallery", place, "--json").stdout)
        assert [(one["work"], one["copied"]) for one in found.values()][0] == ("w1", True)
        assert not found[str(pictures[1])]["copied"]
    said = call("gallery", "check", *pictures, "--gallery", "works").stdout.splitlines()
    assert "a copy of w1" in said[0] and "no copy" in said[1]
    assert call("gallery", "check", pictures[0], "--gallery", "works", "--fail-on-flag").exit_code == 3
    assert call("gallery", "check", pictures[1], "--gallery", "works", "--fail-on-flag").exit_code == 0
    assert "no saved gallery" in one_sentence(call("gallery", "check", pictures[0], "--gallery", "nowhere"))
    assert "no pictures" in one_sentence(call("gallery", "build", tmp_path / "home"))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["generate", "a", "--model", "/nowhere"], "There is no model"),
        (["generate", "a", "--policy", "lenient"], "There is no policy"),
        (["audit", "--out", "OUT", "--model", "/nowhere"], "--prompts"),
        (["audit", "--out", "OUT", "--prompts", "/nowhere.csv"], "no prompt file"),
        (["report", "/nowhere"], "not a run folder"),
        (["calibrate", "--detectors", "psychic"], "There is no detector"),
        (["calibrate", "--model", "owner/name", "--limit", "5"], "needs at least 99 scores of benign prompts"),
        (["calibrate", "--negatives", "works"], "nonmembers and scenes"),
        (["calibrate-copies", "/nowhere", "--out", "OUT/x.json"], "at least 3"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], says: str, tmp_path: Path, model: Path) -> None:
    arguments = [a.replace("OUT", str(tmp_path / "out")) for a in arguments]
    if "--policy" in arguments:
        arguments += ["--model", str(model), "--device", "cpu"]
    assert says in one_sentence(call(*arguments))
    assert not (tmp_path / "out").exists(), "a mistake must leave nothing behind"


def test_report_prints_its_path(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}, kind="audit") as run:
        run.append(
            {
                "id": "a",
                "stage": "before",
                "item": "prompt-1",
                "kind": "prompt",
                "prompt": "a cat",
                "seed": 0,
                "picture": None,
                "scores": {},
                "copied": None,
                "unjudged": "there is no reference picture",
            }
        )
        run.finish()
    assert call("report", tmp_path / "run").stdout == f"{tmp_path / 'run' / 'report.html'}\n"
    assert json.loads(call("report", tmp_path / "run", "--json").stdout)["report"].endswith("report.html")


def test_copy_thresholds_from_a_folder_of_pictures(tmp_path: Path) -> None:
    for seed in range(5):
        cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / f"{seed}.png")
    out = tmp_path / "copy_metrics.json"
    done = call("calibrate-copies", tmp_path, "--out", out)
    assert done.exit_code == 0 and "tiled_l2: copy below" in done.stdout and out.is_file()
    before = out.read_bytes()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "broken.png can't be read" in one_sentence(call("calibrate-copies", tmp_path, "--out", out))
    assert out.read_bytes() == before, "what was there must stay"


def test_the_console_script_ends_mistakes_with_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['diffshield', 'report', sys.argv[1]]; from probes.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"diffshield: {tmp_path} is not a run folder: it has no run.json.\n"


def test_requests_that_differ_have_different_files() -> None:
    requests = [
        GenerationRequest("a"),
        GenerationRequest("b"),
        GenerationRequest("a", seed=1),
        GenerationRequest("a", steps=2),
        GenerationRequest("a", policy="strict"),
    ]
    assert len({r.id for r in requests}) == 5 and GenerationRequest("a").id == GenerationRequest("a", device="cpu").id
    assert GenerationRequest("../../etc/passwd").id.isalnum()


def test_the_strip_holds_every_picture() -> None:
    strip = side_by_side({"one": Image.new("RGB", (9, 9), "red"), "two": Image.new("RGB", (9, 9), "blue")}, side=10)
    assert strip.getpixel((12, 30)) == (255, 0, 0) and strip.getpixel((30, 30)) == (0, 0, 255)


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder like the shipped one, tiny and untrained, calibrated by its own verb."""
    folder = tiny_testbed(tmp_path_factory.mktemp("testbed"))
    arguments = ("--detectors", "structure_gap", "--negatives", "scenes", "--seeds", 5, "--fpr", 0.1, "--device", "cpu")
    done = call("calibrate", *arguments, "--out", folder / "thresholds", DIFFSHIELD_WEIGHTS=folder)
    assert done.exit_code == 0 and "structure_gap: flags above" in done.stdout, (done.output, done.exception)
    return folder


def test_negatives_of_the_testbed_are_its_dev_split(testbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(testbed))
    found = negative_captions("dev", load_manifest())
    assert found["scenes"] == ["a red thing 0", "a red thing 2"]
    assert found["nonmembers"][:2] == ["the cat nonmember-1", "the cat nonmember-2"]


def test_the_testbed_is_compared_with_its_twin_and_works(testbed: Path, tmp_path: Path) -> None:
    done = call(
        "generate",
        "the cat work-96-1",
        "--compare",
        "--steps",
        2,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--json",
        DIFFSHIELD_WEIGHTS=testbed,
    )
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert list(found["copies"]) == ["bare", "shielded", "clean twin"]
    assert all(copy["copied"] is False for copy in found["copies"].values()), "an untrained model copies nothing"
    bare, twin = (np.asarray(Image.open(found["pictures"][name])) for name in ("bare", "clean twin"))
    assert (bare != twin).any()
    # Work, bare, shielded and twin in one row.
    assert Image.open(found["pictures"]["side by side"]).width == 4 * 264 + 8


def test_sampling_is_the_models_own_unless_given(testbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(testbed))
    assert Checkpoint.of("testbed").sampling() == (25, 5.0) and Checkpoint.of("testbed").sampling(3, 2.0) == (3, 2.0)
    own = Checkpoint.of("folder", tiny_sd())
    assert own.sampling() == (50, 7.5) and own.sampling(4) == (4, 7.5)


def test_thresholds_made_with_the_defaults_hold_for_a_scan_with_the_defaults(tmp_path: Path) -> None:
    """Also in a folder whose name begins like ours, whose negatives nobody knows."""
    folder, prompts = tmp_path / "testbed-mine", tmp_path / "p.txt"
    tiny_sd().save_pretrained(folder)
    prompts.write_text("the cat\na dog\n")
    own = Checkpoint.of(str(folder))
    assert own.truth is own.twin is None
    assert own.sampling() == Checkpoint.of(str(folder), tiny_sd()).sampling() == (50, 7.5)
    assert Checkpoint.of(str(tmp_path / "none")).sampling() == (25, 5.0)
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        made = calibrate_detectors("testbed-mine", ["structure_gap"], "t", fpr=0.5, device="cpu")
        assert [one.provenance["negatives"] for one in made.values()] == ["the benign prompts that ship"]
        patch.setenv("DIFFSHIELD_WEIGHTS", str(tmp_path))
        calibrate_detectors(
            str(folder),
            ["structure_gap"],
            tmp_path / "thresholds",
            prompts=prompts,
            seeds=[0, 1],
            fpr=0.5,
            device="cpu",
        )
        done = call(
            "scan",
            prompts,
            "--out",
            tmp_path / "run",
            "--model",
            folder,
            "--detectors",
            "structure_gap",
            "--device",
            "cpu",
            "--json",
            DIFFSHIELD_WEIGHTS=tmp_path,
        )
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["summary"]["threshold"] is not None


@pytest.mark.slow
def test_audit_ends_by_naming_its_report_and_resumes(testbed: Path, tmp_path: Path) -> None:
    arguments = ("audit", "--quick", "--out", tmp_path / "run", "--device", "cpu")
    done = call(*arguments, DIFFSHIELD_WEIGHTS=testbed)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.strip().splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    records = (tmp_path / "run/records.jsonl").read_bytes()
    assert "Add --resume" in one_sentence(call(*arguments, DIFFSHIELD_WEIGHTS=testbed))
    again = call(*arguments, "--resume", "--fail-on-flag", "--json", DIFFSHIELD_WEIGHTS=testbed)
    assert again.exit_code == 0 and json.loads(again.stdout)["summary"]["rows"]
    assert (tmp_path / "run/records.jsonl").read_bytes() == records, "a finished run has nothing left to do"
