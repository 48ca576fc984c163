"""`diffshield localize`: the mask of all prompts, overlap of halves, the norms it leaves, and what it compares with."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from probes.audit.norms import joined, load_norms, save_norms
from probes.cli.main import app
from probes.errors import MaskError, PromptFileError, UnsupportedError
from probes.inputs.base_prompts import base_prompts, reordered
from probes.localizers import FFNSubspace, RandomMask, ValueNeurons
from probes.runs.folder import Run
from probes.testbed.checkpoint import Checkpoint
from probes.types import Subject, UnitMask
from probes.verbs.localize import format_mask, localize, localizer_of, nested_norms, overlaps
from shield.errors import BadRequestError
from tests.probes.exact import bits
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_sd3

pytestmark = pytest.mark.usefixtures("shipped")

PROMPTS = ["the cat", "red", "a thing", "other", "the end"]
LOCALIZER = FFNSubspace(k=0.1, tau=1, steps=2, guidance_scale=5.0)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_sd(), "testbed")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_norms_of_sets_join_by_hand():
    one, two = {"a": torch.tensor([[3.0]])}, {"a": torch.tensor([[1.0]])}
    # (9 * 1 + 1 * 3) / 4 = 3
    assert torch.allclose(joined([one, two], [1, 3])["a"], torch.tensor([[3.0]]).sqrt())


def test_blocks_of_prompts_give_the_norms_of_all_and_run_each_once(subject, tmp_path, file):
    nested = nested_norms(LOCALIZER, subject, PROMPTS, 7)
    assert list(nested) == [1, 2, 4, 5]
    for size, norms in nested.items():
        whole = LOCALIZER.norms(subject, PROMPTS[:size], 7)
        assert all(torch.allclose(norms[path], whole[path], rtol=1e-4) for path in whole)


def test_a_mask_its_norms_and_its_figures(file, tmp_path, weights):
    done = localize(file, tmp_path / "run", localizer=LOCALIZER, device="cpu", show_progress=False)
    summary, folder = done.summary, tmp_path / "run"
    subject = Subject(tiny_sd(), "testbed")
    before = bits(subject.denoiser)
    expected = LOCALIZER.locate(subject, PROMPTS, seed=7).mask
    assert done.mask.iou(expected) > 0.98 and bits(subject.denoiser) == before  # sums in another order
    assert done.mask.meta["prompts"] == "5"
    # five prompts and the base, one step, two halves
    assert summary["cost"][0]["evaluations"] == (5 + 1) * 2
    assert [row["prompts"] for row in summary["mask"]["overlap"]] == [1, 2]
    assert (folder / "density.svg").read_text().startswith("<svg") and (folder / "overlap.svg").is_file()
    localizer, target, base = load_norms(folder / "norms.safetensors")
    assert localizer == LOCALIZER
    again = localizer.mask(
        {path: module.weight for path, module in subject.denoiser.named_modules() if path in target}, target, base
    )
    assert again.iou(done.mask) == 1.0
    assert any("overlap (IoU)" in line for line in format_mask(summary))
    assert not any("nothing to prune" in line for line in format_mask(summary))
    nothing = {**summary, "mask": {**summary["mask"], "weights": 0}}
    assert "nothing to prune" in format_mask(nothing)[1]
    same = localize(file, folder, localizer=LOCALIZER, device="cpu", show_progress=False, resume=True)
    assert same.summary == summary and same.mask.iou(done.mask) == 1.0


def test_equal_halves_overlap_fully_and_random_masks_dont(subject):
    sets = {1: LOCALIZER.locate(subject, PROMPTS[:1], seed=7).mask}
    (row,) = overlaps(subject, [sets, sets], 7)
    assert row["iou"] == 1.0 and row["iou_random"] < 0.5 and row["weights"][0] == row["weights"][1] > 0


def test_neurons_of_each_prompt_are_records_and_a_cut_run_ends_the_same(file, tmp_path, weights):
    # Scores spread far below their mean: every prompt counts as memorized, also on random weights.
    localizer = ValueNeurons(negatives=("new", "other words"), seeds=2, spread=-50, theta=2, theta_step=0.5)
    options = {"localizer": localizer, "device": "cpu", "show_progress": False}
    done = localize(file, tmp_path / "run", **options)
    records = list(Run.open(done.folder).records())
    assert [record["prompt"] for record in records] == PROMPTS
    assert done.summary["mask"]["neurons"] == [sum(map(len, r["neurons"].values())) for r in records]
    assert done.mask.count() > 0 and done.mask.meta["unit"] == "neuron" and done.summary["mask"]["above"] == 5
    assert done.mask.iou(localizer.locate(Subject(tiny_sd(), "testbed"), PROMPTS, seed=7).mask) == 1.0
    assert [row["prompts"] for row in done.summary["mask"]["overlap"]] == [1, 2]
    assert any("neurons a prompt" in line for line in format_mask(done.summary))

    def interrupted(self, *arguments):
        if len(list(Run.open(tmp_path / "cut").records())) == 3:
            raise KeyboardInterrupt
        return ValueNeurons.neurons(self, *arguments)

    stopping = type("Stopping", (ValueNeurons,), {"neurons": interrupted})(**asdict(localizer))
    with pytest.raises(KeyboardInterrupt):
        localize(file, tmp_path / "cut", **{**options, "localizer": stopping})
    again = localize(file, tmp_path / "cut", **options, resume=True)
    assert list(Run.open(tmp_path / "cut").records()) == records and again.mask.iou(done.mask) == 1.0


def test_bases(file, tmp_path):
    assert base_prompts("null", PROMPTS, Checkpoint.of("testbed")) == ("",)
    words = "a red fox on a hill".split()
    shuffled = reordered(" ".join(words)).split()
    assert shuffled != words and sorted(shuffled) == sorted(words) and reordered("cat") == "cat"
    assert base_prompts("paraphrase", ["a b c"], Checkpoint.of("testbed")) == (reordered("a b c"),)
    assert base_prompts("nonmembers", [], Checkpoint.of("testbed"))[0] == "the cat nonmember-1"
    assert base_prompts(str(file), [], Checkpoint.of("testbed")) == tuple(PROMPTS)
    with pytest.raises(PromptFileError):
        base_prompts(str(tmp_path / "none.txt"), [], Checkpoint.of("testbed"))


def test_options_that_cant_be_are_one_sentence(file):
    options = {"k": 0.1, "tau": 1, "steps": 2, "unit": "weight"}
    assert localizer_of("random_mask", None, options, file, Checkpoint.of("testbed")) == RandomMask(density=0.1)
    assert localizer_of("ffn_subspace", None, options, file, Checkpoint.of("testbed")).base == ("",)
    assert (
        localizer_of("value_neurons", None, options, file, Checkpoint.of("testbed")).negatives[0]
        == "the cat nonmember-1"
    )
    with pytest.raises(BadRequestError, match="at least two prompts"):
        localizer_of("value_neurons", "null", options, file, Checkpoint.of("testbed"))
    for method in ("ffn_subspace", "curvature"):  # by default six steps, or all that a short schedule has
        taus = [
            localizer_of(
                method,
                None,
                {**options, "guidance_scale": 5.0, "tau": None, "steps": steps},
                file,
                Checkpoint.of("testbed"),
            ).tau
            for steps in (1, 4, 25)
        ]
        assert taus == [1, 4, 6]
    for method, wrong in (("nonsense", {}), ("ffn_subspace", {"tau": 3}), ("ffn_subspace", {"unit": "layer"})):
        with pytest.raises(BadRequestError):
            localizer_of(method, "null", {**options, **wrong}, file, Checkpoint.of("testbed"))


def test_norms_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(MaskError, match="diffshield localize"):
        load_norms(tmp_path / "norms.safetensors")
    path = tmp_path / "norms.safetensors"
    save_norms(path, replace(LOCALIZER, base=("a", "b")), {"x": torch.ones(1, 2)}, {"x": torch.zeros(1, 2)})
    assert load_norms(path)[0].base == ("a", "b") and float(load_norms(path)[2]["x"].sum()) == 0
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(MaskError, match="can't be read"):
        load_norms(path)


def test_the_verb_with_a_random_mask(tmp_path, file):
    done = CliRunner().invoke(
        app,
        [
            "localize",
            str(file),
            "--out",
            str(tmp_path / "run"),
            "--method",
            "random_mask",
            "--k",
            "0.1",
            "--device",
            "cpu",
            "--json",
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    mask = UnitMask.load(tmp_path / "run" / "mask.safetensors")
    assert found["summary"]["mask"]["weights"] == mask.count() and abs(mask.density() - 0.1) < 0.01
    assert found["summary"]["cost"][0]["evaluations"] == 0


def test_value_neurons_of_a_transformer_are_refused_with_what_to_take_instead(tmp_path):
    localizer = ValueNeurons(negatives=("new", "other words"), seeds=2)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\n")
    with pytest.raises(UnsupportedError, match="SD3Transformer2DModel, which has none; take --method ffn_subspace"):
        localize(prompts, tmp_path / "run", localizer=localizer, model="mine", pipe=tiny_sd3())
    assert not (tmp_path / "run").exists()
