"""`import probes`: each function takes a pipeline or a name, and a list of prompts or a file."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

import probes
from probes.errors import RunError
from probes.inputs.cohorts import Sizes
from probes.inputs.given import prompt_file
from probes.inputs.prompts import read_prompts
from probes.verbs.attack import ATTACK
from shield.errors import BadRequestError
from shield.model.loading import load
from tests.tiny import tiny_sd

pytestmark = pytest.mark.usefixtures("shipped")
PROMPTS = ["the cat work-384-0", "a red thing"]


def test_scan_gives_rows_of_a_pipeline_and_of_its_name_alike(tmp_path):
    options = {"detectors": ["noise_gap"], "seeds": (500, 501)}
    pipe = load("testbed", device="cpu")
    table = probes.scan(pipe, PROMPTS, **options, out=tmp_path / "run")
    assert [(row["prompt"], row["seed"]) for row in table] == [(p, s) for p in PROMPTS for s in (500, 501)]
    assert len({row["score_noise_gap"] for row in table}) == 4 and {row["model"] for row in table} == {"testbed"}
    assert table[0]["rung"] == 384 and table[2]["rung"] is None  # the testbed knows the first caption
    frame = table.to_pandas()
    assert list(frame["score_noise_gap"]) == [row["score_noise_gap"] for row in table]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    named = probes.scan("testbed", str(file), **options, device="cpu")
    scores = [[row["score_noise_gap"] for row in rows] for rows in (table, named)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    with pytest.raises(RunError, match="resume=True"):
        probes.scan(pipe, PROMPTS, **options, out=tmp_path / "run")
    with pytest.raises(RunError, match="other prompts"):
        probes.scan(pipe, PROMPTS[:1], **options, out=tmp_path / "run", resume=True)
    assert probes.scan(pipe, PROMPTS, **options, out=tmp_path / "run", resume=True) == table


def test_a_pipeline_made_in_memory_goes_by_its_class():
    assert {row["model"] for row in probes.scan(tiny_sd(), PROMPTS)} == {"StableDiffusionPipeline"}


def test_a_mask_is_located_and_pruned_inside_of_a_block_alone():
    pipe = load("testbed", device="cpu")
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    mask = probes.localize(pipe, PROMPTS, base=["a blue thing"], k=0.1, tau=1, steps=2)
    assert mask.meta["model"] == "testbed" and 0 < mask.density() <= 0.1
    path, selected = next((path, one) for path, one in mask.masks.items() if one.any())
    with pytest.raises(RuntimeError), probes.pruned(pipe, mask) as same:
        assert same is pipe and not pipe.unet.get_submodule(path).weight[selected].any()
        raise RuntimeError
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())
    with pytest.raises(BadRequestError, match="no option tua; there are k, tau"):
        probes.localize(pipe, PROMPTS, tua=1)


def test_attack_gives_pictures_of_works_and_controls():
    plan = replace(ATTACK, sizes=Sizes(members=1, nonmembers=1, scenes=0))
    mask = probes.localize("testbed", PROMPTS, method="random_mask", k=0.1, device="cpu")
    found = probes.attack(
        "testbed", PROMPTS[:1], mask=mask, plan=plan, attack_steps=(0, 1), seeds=(1, 2), batch=1, steps=2, device="cpu"
    )
    assert found.report.is_file() and len(found.summary["verdicts"]) == 2
    assert [image.size for image in found.images(stage="attacked", attack_steps=1)] == [(64, 64)] * 2
    works = [row for row in found.table if row["stage"] == "attacked"]
    assert {row["prompt"] for row in works} == {PROMPTS[0]} and {row["copied"] for row in works} <= {True, False}


def test_hardens_by_its_own_amounts_alone():
    with pytest.raises(BadRequestError, match="no amount epoch of training; there are members"):
        probes.harden("testbed", PROMPTS, epoch=1, device="cpu")


def test_judge_tells_a_copy_from_other_pictures():
    pictures = [Image.effect_mandelbrot((64, 64), (-2 + n / 3, -1, 1, 1), 20 + 9 * n).convert("RGB") for n in range(4)]
    references = [pictures[0], pictures[1], None]
    found = probes.judge([pictures[0], pictures[2], pictures[3]], references, unrelated=pictures)
    assert [one.copied for one in found] == [True, False, None] and found[2].unjudged
    with pytest.raises(BadRequestError, match="1 and 0 were given"):
        probes.judge(pictures[:1], [])
    assert probes.judge([pictures[0]] * 3, pictures[:3])[0].copied
    with pytest.raises(probes.ProbeError):
        probes.judge(["nothing.png"], pictures[:1])


def test_pictures_of_works_are_kept_in_the_run_folder(tmp_path):
    picture = Image.new("RGB", (8, 8), "red")
    picture.save(tmp_path / "own.png")
    file = prompt_file([("a", picture), ("b", tmp_path / "own.png"), "c"], tmp_path / "run", "works")
    targets = read_prompts(file)
    assert [target.prompt for target in targets] == ["a", "b", "c"] and targets[2].reference is None
    assert targets[0].reference == (tmp_path / "run" / "works" / "000001.png").resolve()
    assert targets[1].reference == (tmp_path / "own.png").resolve()
    with pytest.raises(BadRequestError, match="number 1 is"):
        prompt_file([(3, None)], tmp_path / "other", "works")


def test_packages_of_a_functions_name_are_called_in_any_order_of_imports():
    code = (
        "import probes, inspect; first = probes.scan; import probes.scan.scan, probes.audit.plan; "
        "from probes import audit; assert 'prompts' in inspect.signature(probes.scan).parameters; "
        "assert callable(first) and callable(audit) and probes.scan.scan.scan is not first; "
        "assert set(probes.__all__) == set(dir(probes)); [getattr(probes, name) for name in dir(probes)]"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
