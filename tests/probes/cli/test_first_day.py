"""What a first day with a checkpoint of one's own meets: bad numbers, lost pictures, calls that a pipeline refuses."""

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from probes.cli.failures import failure_of
from probes.localizers import RandomMask
from probes.report.reported_run import ReportedRun
from probes.runs.folder import Run, record_id
from probes.scan.figures import WIDTH
from probes.types import Subject
from shield.errors import CheckpointError, WeightsError
from shield.model.loading import load
from shield.thresholds import load_thresholds
from tests.probes.cli.test_cli import call, one_sentence
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_picture, tiny_sdxl
from tests.tiny_kolors import tiny_kolors
from tests.tiny_transformers import tiny_zimage
from ui.verb import app as page


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Prompts of which two of five have their picture, and benign ones."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(2):
        tiny_picture(number).save(folder / f"{number}.png")
    rows = "".join(f"a cat {number},{number}.png\n" for number in range(5))
    (folder / "works.csv").write_text("prompt,picture\n" + rows)
    (folder / "lost.csv").write_text("prompt,picture\na cat,nowhere.png\n")
    (folder / "benign.txt").write_text("".join(f"a dog {number}\n" for number in range(6)))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a cat", "--guidance", "nan"),
        ("generate", "a cat", "--seed", 10**30),
        ("scan", "--guidance", "inf"),
        ("scan", "--limit", 10**30),
        ("scan", "--trajectory", "--points", "0,nan"),
        ("harden", "--lr", "nan"),
        ("prune", "mask", "--sweep", "0.1,inf"),
    ],
)
def test_numbers_that_no_verb_can_use_are_bad_usage(words, model, tmp_path):
    done = call(*words, "--model", model, "--out", tmp_path / "run")
    assert done.exit_code == 2 and "needed" in done.stderr and "Usage" in done.stderr, (done.output, done.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (("generate", "a cat", "--steps", 5000, "--policy", "names"), "5000 cannot be larger"),
        (("scan", "benign.txt", "--steps", 5000), "5000 cannot be larger"),
        (("calibrate", "--sizes", "63x63", "--fpr", 0.2, "--prompts", "benign.txt"), "divisible by 8"),
        (("calibrate", "--strength", 3, "--fpr", 0.2, "--prompts", "benign.txt"), "strength"),
    ],
)
def test_what_a_pipeline_refuses_is_a_sentence(words, said, model, inputs, tmp_path):
    words = [inputs / word if word == "benign.txt" else word for word in words]
    done = call(*words, "--model", model, "--out", tmp_path / "run", DIFFSHIELD_HOME=tmp_path)
    assert done.exit_code == 2 and "Traceback" not in done.stderr, (done.output, done.exception)
    assert done.stderr.splitlines()[-1].startswith("diffshield: The pipeline refuses") and said in done.stderr


def test_a_strength_needs_no_size(model, inputs, tmp_path):
    """Pipelines of image to image name no size of their own; the picture that stands for one has the denoiser's."""
    given = ("--strength", 0.5, "--steps", 4, "--fpr", 0.2, "--prompts", inputs / "benign.txt", "--out", tmp_path)
    done = call("calibrate", "--model", model, *given)
    assert done.exit_code == 0, (done.output, done.exception)
    assert {one.setting.latent_shape for one in load_thresholds(tmp_path)} == {(4, 8, 8)}


def test_a_file_where_a_folder_should_be_is_found_before_the_model_is_loaded(inputs):
    said = one_sentence(call("generate", "a cat", "--model", inputs / "no-model", "--out", inputs / "works.csv"))
    assert "Can't write to" in said


def test_calibrating_again_with_other_steps_and_guidance_leaves_one_threshold(model, inputs, tmp_path):
    """A first-step score depends on neither, so two would both hold, and no scan could say which is meant."""
    shared = ("--model", model, "--detectors", "structure_gap", "--fpr", 0.2, "--prompts", inputs / "benign.txt")
    for steps, guidance in ((4, 7.5), (5, 0)):
        done = call("calibrate", *shared, "--steps", steps, "--guidance", guidance, "--out", tmp_path / "kept")
        assert done.exit_code == 0, (done.output, done.exception)
    assert len(load_thresholds(tmp_path / "kept")) == 1
    given = ("--model", model, "--steps", 4, "--thresholds", tmp_path / "kept", "--out", tmp_path / "scan")
    done = call("scan", inputs / "benign.txt", *given)
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_a_scan_without_guidance_scores(make, inputs, tmp_path):
    """As the shield does for SDXL-Turbo: the empty prompt is asked about beside each; the score is the guided one."""
    make().save_pretrained(tmp_path / "model")
    highest = []
    for guidance in (0, 5):
        given = ("--model", tmp_path / "model", "--steps", 4, "--guidance", guidance, "--out", tmp_path / f"{guidance}")
        done = call("scan", inputs / "benign.txt", *given, "--json", DIFFSHIELD_HOME=tmp_path)
        assert done.exit_code == 0, (done.output, done.exception)
        scores = json.loads(done.stdout)["summary"]["scores"]["structure_gap"]
        assert (scores["n"], scores["unscored"]) == (6, 0)
        highest.append(scores["highest"])
    assert highest[0] == pytest.approx(highest[1], rel=1e-3) or make is tiny_sdxl  # its empty prompt is zeros


def test_lost_pictures_are_told(model, inputs, tmp_path):
    shared = ("--model", model, "--steps", 2, "--out")
    done = call("scan", inputs / "works.csv", *shared, tmp_path / "scan", "--pictures", DIFFSHIELD_HOME=tmp_path)
    assert done.exit_code == 0 and "3 of 5 prompts name a reference picture that isn't there" in done.stderr
    assert "'2.png'" in done.stderr
    works = ("--prompts", inputs / "works.csv", "--attack", "noise", "--at", "0", "--seeds", 1)
    done = call("attack", *works, *shared, tmp_path / "attack")
    assert done.exit_code == 0 and "3 of 5 prompts name" in done.stdout, (done.output, done.exception)


@pytest.mark.parametrize("verb", ["attack", "harden", "locality"])
def test_searches_without_a_picture_are_refused_before_any_work(verb, model, inputs, tmp_path):
    given = ("--model", model, "--prompts", inputs / "lost.csv", "--out", tmp_path / "run")
    said = one_sentence(call(verb, *given))
    assert f"{verb} needs reference pictures" in said and "'nowhere.png'" in said
    assert not (tmp_path / "run").exists()


def test_words_are_not_searched_in_sdxl_and_nothing_is_drawn_for_it(inputs, tmp_path):
    tiny_sdxl().save_pretrained(tmp_path / "model")
    given = ("--model", tmp_path / "model", "--prompts", inputs / "works.csv", "--out", tmp_path / "run")
    said = one_sentence(call("attack", "--attack", "prompt_search", "--at", "0,1", *given))
    assert "StableDiffusionXLPipeline has another layout" in said
    assert not (tmp_path / "run").exists()


def test_a_named_column_of_a_text_file_is_refused(model, inputs, tmp_path):
    given = ("--model", model, "--column", "caption", "--out", tmp_path / "run")
    assert "has no columns" in one_sentence(call("scan", inputs / "benign.txt", *given))


@pytest.mark.parametrize("verb", ["scan", "calibrate"])
def test_points_outside_of_the_schedule_are_refused(verb, model, inputs, tmp_path):
    own = ("--trajectory",) if verb == "scan" else ()
    prompts = (inputs / "benign.txt",) if verb == "scan" else ()
    given = ("--points", "0,7", "--model", model, "--out", tmp_path / "run")
    assert "shares from 0 to 1 of the schedule; 0, 7 was given" in one_sentence(call(verb, *prompts, *own, *given))


def test_a_trajectory_without_thresholds_names_the_command_that_makes_them(model, inputs, tmp_path):
    given = ("--model", model, "--steps", 5, "--trajectory", "--points", "0,0.6", "--limit", 1)
    empty = tmp_path / "own"
    empty.mkdir()
    done = call("scan", inputs / "benign.txt", *given, "--thresholds", empty, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "--points 0,0.6 --steps 5" in done.stdout and f"--out {empty}" in done.stdout


def test_a_long_prompt_is_one_short_line_of_the_table(model, tmp_path):
    file = tmp_path / "long.csv"
    file.write_text('prompt\n"a cat\nand ' + "a dog " * 10_000 + '"\n')
    done = call("scan", file, "--model", model, "--steps", 2, "--out", tmp_path / "run", DIFFSHIELD_HOME=tmp_path)
    assert done.exit_code == 0 and max(map(len, done.stdout.splitlines()[:1])) < WIDTH + 50
    assert "a cat and a dog" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("words", [("calibrate-copies", "nowhere"), ("calibrate-gallery", ".", "nowhere")])
def test_a_folder_of_pictures_that_is_missing_is_said_to_be(words, tmp_path):
    out = () if words[0] == "calibrate-gallery" else ("--out", tmp_path / "copies.json")
    assert "There is no folder of pictures at nowhere" in one_sentence(call(*words, *out))


def test_what_a_report_says_to_do_next_is_whole(tmp_path):
    """With the works that were judged by, and a mask only where the run has one."""
    run = ReportedRun("attack", str(tmp_path), "mine", {}, (), None, ("works.csv",))
    assert run.masked == ()
    assert run.command("harden", *run.masked, "--out", "out").split() == [
        *("diffshield", "harden", "--out", "out"),
        *("--prompts", "works.csv", "--model", "mine"),
    ]
    Path(tmp_path / "mask.safetensors").touch()
    assert run.masked == ("--mask", f"{tmp_path}/mask.safetensors")


def test_a_name_that_no_hub_has_is_refused_without_asking_it(monkeypatch, inputs, tmp_path):
    import diffusers

    asked = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda name, **more: asked.append(name))
    said = one_sentence(call("scan", inputs / "benign.txt", "--model", "tesbed", "--out", tmp_path / "run"))
    assert "There is no model 'tesbed'" in said and not asked


@pytest.mark.parametrize(
    "option, words",
    [
        ("--concepts", ("scan", "benign.txt")),
        ("--registry", ("calibrate-concepts",)),
        ("--pictures", ("gallery", "build")),
        ("--image", ("gallery", "check")),
        ("--config", ("scan", "benign.txt")),
    ],
)
def test_a_missing_file_is_a_sentence_without_its_error_number(option, words, model, inputs, tmp_path):
    gone, given = tmp_path / "nowhere.toml", [inputs / word if word == "benign.txt" else word for word in words]
    more = {"--pictures": (gone,), "--image": (gone, "--gallery", inputs)}.get(option, (option, gone))
    model_of = ("--model", model) if words[0] == "scan" else ()
    out = () if words[0] == "gallery" else ("--out", tmp_path / "run")
    done = call(*given, *more, *model_of, *out)
    assert done.exit_code == 2 and "Errno" not in done.stderr and "no such file" not in done.stdout.lower()
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "There is no" in said or "No such file or directory" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [tiny_zimage, partial(tiny_kolors, positions=64)])
def test_a_pipeline_that_breaks_off_by_itself_is_a_sentence(make, tmp_path):
    """The benign prompts of a calibration are longer than these checkpoints' tables of positions."""
    make().save_pretrained(tmp_path / "model")
    given = ("--model", tmp_path / "model", "--steps", 2, "--out", tmp_path / "run")
    done = call("generate", "a cat", *given, DIFFSHIELD_HOME=tmp_path)
    assert done.exit_code == 1 and "Traceback" not in done.stderr, (done.output, done.exception)
    assert done.stderr.splitlines()[-1].startswith("diffshield: The pipeline breaks off by itself in ")


def test_an_error_of_our_own_inside_a_pipeline_stays_a_traceback():
    with pytest.raises(TypeError) as caught:
        tiny_sd()("a cat", num_inference_steps=1, callback_on_step_end=lambda *given: record_id({1: {2}}, *given[:2]))
    assert failure_of(caught.value) is None


@pytest.mark.parametrize("name", ["NOPE", "nope/", "/nowhere/model"])
def test_a_page_for_a_model_that_there_is_not_never_starts(name, tmp_path):
    done = CliRunner().invoke(page, ["ui", "--model", name, "--runs", str(tmp_path / "runs")])
    assert f"There is no model {name!r}" in one_sentence(done) and not (tmp_path / "runs").exists()


def test_a_page_for_a_file_that_holds_no_checkpoint_never_starts(inputs, tmp_path):
    done = CliRunner().invoke(page, ["ui", "--model", str(inputs / "0.png"), "--runs", str(tmp_path / "runs")])
    assert ".safetensors or .ckpt" in one_sentence(done) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["attack", "harden", "audit"])
def test_a_twin_of_another_family_is_refused_before_any_work(verb, model, inputs, tmp_path):
    tiny_sdxl().save_pretrained(tmp_path / "twin")
    given = (
        "--model",
        model,
        "--prompts",
        inputs / "works.csv",
        "--twin",
        tmp_path / "twin",
        "--out",
        tmp_path / "run",
    )
    said = one_sentence(call(verb, *given))
    assert "is a StableDiffusionPipeline and the twin" in said and "StableDiffusionXLPipeline" in said
    assert not (tmp_path / "run").exists()


def test_a_masked_part_is_judged_by_the_works_where_there_are_no_nonmembers(model, inputs, tmp_path):
    tiny_picture(2).save(inputs / "2.png")
    tiny_picture(3).save(inputs / "3.png")
    works = inputs / "four.csv"
    works.write_text("prompt,picture\n" + "".join(f"a cat {number},{number}.png\n" for number in range(4)))
    given = ("--model", model, "--prompts", works, "--steps", 2, "--seeds", 1, "--at", 20, "--out", tmp_path / "run")
    done = call("attack", "--attack", "inpainting", *given)
    assert done.exit_code == 0 and "of 4 copies" in done.stdout, (done.output, done.exception)
    assert "could not be judged" not in done.stdout and "calibrated on the reference pictures" in done.stdout


def test_pruning_without_references_says_first_that_no_copies_are_counted(model, inputs, tmp_path):
    RandomMask(density=0.1).locate(Subject(tiny_sd(), "tiny")).mask.save(tmp_path / "mask.safetensors")
    given = (
        "--model",
        model,
        "--prompts",
        inputs / "benign.txt",
        "--steps",
        2,
        "--seeds",
        1,
        "--out",
        tmp_path / "run",
    )
    done = call("prune", tmp_path / "mask.safetensors", *given)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stderr.startswith("Copies can't be judged: at least three prompts need a reference picture")
    assert "Copies can't be judged" in done.stdout


@pytest.mark.parametrize("kind", ["attacks", "localizers"])
def test_listed_methods_name_their_paper(kind):
    done = call("list", kind)
    assert "docstring" not in done.stdout and "arXiv" in done.stdout
    listed = json.loads(call("list", kind, "--json").stdout)[kind]
    assert all(about["source"] for about in listed.values())


def test_a_comparison_goes_beside_the_later_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("v1", "v2"):
        with Run.create(tmp_path / "runs" / name, {}, kind="audit") as run:
            run.append(
                {"id": "a", "stage": "before", "item": "prompt-1", "kind": "prompt", "prompt": "a cat", "seed": 0}
                | {"picture": None, "scores": {}, "copied": None, "unjudged": "there is no reference picture"}
            )
            run.finish()
    done = call("compare", "runs/v1", "runs/v2")
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == "Page: runs/compare-v1-v2.html"
    assert (tmp_path / "runs/compare-v1-v2.html").is_file() and [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_a_size_is_drawn_as_it_is_asked_for(model, tmp_path):
    words = ("generate", "a cat", "--policy", "names", "--steps", 2, "--compare", "--size", "64x96")
    done = call(*words, "--model", model, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.stderr
    drawn = json.loads(done.stdout)["pictures"]
    assert {Image.open(drawn[label]).size for label in ("bare", "shielded")} == {(96, 64)}  # PIL: the width first
    refused = call("generate", "a cat", "--size", "64", "--model", model, "--out", tmp_path)
    assert refused.exit_code == 2 and "heights and widths" in refused.stderr


@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"])
def test_what_the_hub_lacks_is_bad_input(kind, monkeypatch):
    """As diffusers says it, whose error hides huggingface_hub's in its context."""
    import diffusers
    from huggingface_hub import errors

    assert issubclass(getattr(errors, kind), OSError)  # so it is called, whatever a constructor of theirs takes
    missing = type(kind, (OSError,), {})("404")

    def absent(*given, **options):
        try:
            raise missing
        except OSError:
            raise OSError("nobody/nothing is not a valid model identifier.")  # noqa: B904

    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", absent)
    with pytest.raises(CheckpointError, match="nobody/nothing can't be loaded") as refused:
        load("nobody/nothing")
    assert failure_of(refused.value)[1] == 2
    missing = errors.LocalEntryNotFoundError("The hub can't be reached.")
    with pytest.raises(WeightsError) as failed:
        load("nobody/nothing")
    assert failure_of(failed.value)[1] == 1
