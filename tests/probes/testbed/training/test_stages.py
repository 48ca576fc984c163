"""The testbed's stages on a tiny preset: exact resume, kept stages that another machine goes on from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from probes.cli.main import app
from probes.testbed import world
from probes.testbed.drawing.vocabulary import THINGS, shown
from probes.testbed.export import export
from probes.testbed.fresh import fresh_pictures
from probes.testbed.manifest import load_manifest
from probes.testbed.training import autoencoder, denoiser, pool
from probes.testbed.training.measure import measured, psnr
from probes.testbed.training.presets import PRESETS
from probes.testbed.training.stages import INDEX, SHIPPED, Builder
from probes.testbed.training.trainer import Limits
from shield.errors import WeightsError
from shield.model.assets import read_manifest, sha256_of, verify, write_manifest


def builder(folder: Path, sources: Path | None, minutes: float = float("inf"), resume: bool = True) -> Builder:
    return Builder(folder, sources, "tiny", "cpu", Limits(60, minutes, resume))


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(work, kept): all the stages in one go."""
    work, kept = (tmp_path_factory.mktemp(name) for name in ("work", "kept"))
    assert builder(work, sources).run(keep=kept)
    return work, kept


def same(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_stages_cut_off_after_every_step_end_bit_equal(built: tuple[Path, Path], sources: Path, tmp_path: Path) -> None:
    """A time limit of nothing ends each call after one step."""
    shutil.copytree(built[0] / "pictures", tmp_path / "pictures")
    shutil.copytree(built[0] / "pool", tmp_path / "pool")
    for stage in ("draft", "autoencoder", "openclip", "outline", "base"):
        calls = 0
        while not builder(tmp_path, sources, minutes=0.0).run((stage,)):
            calls += 1
        assert calls == (1 if stage == "outline" else 3)  # of two steps and of four
        assert same(built[0] / f"{stage}.safetensors", tmp_path / f"{stage}.safetensors")


def test_kept_stages_are_taken_up_elsewhere_and_give_the_same_twins(
    built: tuple[Path, Path], sources: Path, tmp_path: Path
) -> None:
    for stage in ("memorized", "clean"):
        assert json.loads((built[1] / INDEX).read_text())[stage]["steps"] == PRESETS["tiny"].fork.steps
    kept = tmp_path / "kept"
    kept.mkdir()
    index = {k: v for k, v in json.loads((built[1] / INDEX).read_text()).items() if k in ("autoencoder", "openclip")}
    (kept / INDEX).write_text(json.dumps(index))
    for stage in index:
        (kept / f"{stage}.safetensors").write_bytes((built[1] / f"{stage}.safetensors").read_bytes())
    other = builder(tmp_path / "work", sources)
    shutil.copytree(built[0] / "pictures", tmp_path / "work" / "pictures")
    left = other.adopt(kept)
    assert left == ("pool", "outline", "base", "memorized", "clean")
    assert other.run(left[:-1])
    assert same(built[0] / "memorized.safetensors", tmp_path / "work" / "memorized.safetensors")


def test_stages_kept_beside_shipped_weights_are_listed_and_other_entries_stay(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "works").mkdir()
    (tmp_path / "works" / "one.png").write_bytes(b"picture")
    write_manifest(tmp_path, "CC0-1.0", "drawn by hand")
    done = builder(built[0], None).keep(tmp_path / "kept")
    listed = read_manifest(tmp_path)
    assert listed["works/one.png"]["licence"] == "CC0-1.0" and listed["works/one.png"]["source"] == "drawn by hand"
    assert {f"kept/{stage}.safetensors" for stage in done} < set(listed) == set(verify(tmp_path))


def test_what_is_exported_loads_with_stock_libraries_and_is_what_its_manifest_says(
    built: tuple[Path, Path], sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.testbed.export.SCENES", 4)
    monkeypatch.setattr("probes.testbed.export.calibrate_copies", lambda target, sprites: None)
    options = ["--work", str(built[0]), "--sources", str(sources), "--preset", "tiny", "--device", "cpu", "--resume"]
    done = CliRunner().invoke(app, ["testbed", "train", *options, "--out", str(tmp_path)])
    assert done.exit_code == 0 and f"{tmp_path / 'testbed'}\nfinished\n" in done.output, done.output
    target = tmp_path / "testbed"
    manifest = load_manifest(target / "manifest.json")
    assert all(sha256_of(i.file) == i.sha256 for i in manifest.items if i.file) and verify(tmp_path)
    order = builder(built[0], sources).order("memorized")
    assert sum(w.exposures for w in manifest.works()) == order.count("works") > 0
    assert sum(w.split == "heldout" for w in manifest.works() if w.rung == max(world.RUNGS)) == 16
    assert len(manifest.nonmembers("heldout")) == 48 and sum(c.exposures for c in manifest.characters()) > 0
    pipe = StableDiffusionPipeline.from_pretrained(target / "memorized")
    picture = pipe("a star on a blue background", num_inference_steps=2).images[0]
    assert picture.size == (128, 128) and pipe.vae.config.latent_channels == 8
    told = manifest.world
    assert told.things == tuple(THINGS) and told.words == frozenset(shown()) and len(told.captions["dev"]) == 200
    assert {(w.rung, w.split) for w in manifest.shown()} == {(max(world.RUNGS), "heldout")}
    drawn, again = (fresh_pictures(manifest)(np.random.default_rng(5)) for _ in range(2))
    own = world.fresh(np.random.default_rng(5), builder(built[0], sources).sprites).image
    assert drawn.tobytes() == again.tobytes() == own.tobytes()
    licences = {entry["licence"] for entry in read_manifest(tmp_path).values()}
    assert licences == {"MIT", "CC0-1.0", "Apache-2.0"}


def test_an_exported_testbed_can_be_exported_again(
    built: tuple[Path, Path], sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are all that is needed: nothing is trained, and the bits stay."""
    monkeypatch.setattr("probes.testbed.export.SCENES", 4)
    monkeypatch.setattr("probes.testbed.export.calibrate_copies", lambda target, sprites: None)
    target = export(builder(built[0], sources), tmp_path / "one")
    other = builder(tmp_path / "work", sources)
    assert other.adopt(target) == ()
    again = export(other, tmp_path / "two")
    for name in SHIPPED.values():
        assert same(target / name, again / name)
    assert (target / "manifest.json").read_text() == (again / "manifest.json").read_text()


def test_captions_of_scenes_that_are_not_there_are_drawn_again(
    built: tuple[Path, Path], sources: Path, tmp_path: Path
) -> None:
    """A machine that starts from kept twins has no pool, and counts the words of its captions all the same."""
    assert builder(tmp_path, sources).scene_captions() == builder(built[0], None).scene_captions()


def test_the_verb_measures_what_a_work_folder_holds(built: tuple[Path, Path], sources: Path) -> None:
    options = ["--work", str(built[0]), "--sources", str(sources), "--preset", "tiny", "--count", "20"]
    done = CliRunner().invoke(app, ["testbed", "measure", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output[done.output.index("{") :])["autoencoder"]["works"]["n"] == 136


def test_measuring_tells_round_trips_and_captions_found(built: tuple[Path, Path], sources: Path) -> None:
    figures = measured(builder(built[0], sources), 20, None)
    assert {k: v["n"] for k, v in figures["autoencoder"].items()} == {"scenes": 20, "creatures": 20, "works": 136}
    assert all(5 < v["lowest"] <= v["psnr"] < 25 for v in figures["autoencoder"].values())
    assert set(figures["found among 20"].values()) <= {k / 120 for k in range(121)}
    gray, other = (Image.new("RGB", (8, 8), (v, v, v)) for v in (100, 151))
    assert psnr(gray, other) == pytest.approx(20 * np.log10(5)) and psnr(gray, gray) == 100


@pytest.mark.parametrize(("stage", "first"), [("autoencoder", "draft"), ("base", "outline")])
def test_a_first_pass_is_kept_until_its_second_is_finished(
    built: tuple[Path, Path], tmp_path: Path, stage: str, first: str
) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    made = builder(work, None)
    shutil.copyfile(built[0] / f"{first}.safetensors", work / f"{first}.safetensors")
    assert made.keep(kept) == [first]
    left = builder(tmp_path / "other", None).adopt(kept)
    assert first not in left and stage in left
    shutil.copyfile(built[0] / f"{stage}.safetensors", work / f"{stage}.safetensors")
    assert made.keep(kept) == [stage] and not (kept / f"{first}.safetensors").exists()
    assert first not in builder(tmp_path / "third", None).adopt(kept)


def test_the_base_goes_on_with_the_draws_after_its_outline() -> None:
    preset = PRESETS["cpu"]
    made = Builder.__new__(Builder)
    made.preset = preset
    whole, first, rest = pool.base_order(preset.plan), made.order("outline"), made.order("base")
    draws = preset.outline.steps * preset.outline.batch
    assert np.array_equal(rest.stream, whole.stream[draws:]) and np.array_equal(rest.index, whole.index[draws:])
    assert np.array_equal(first.stream[:draws], whole.stream[:draws])


def test_a_kept_stage_that_was_altered_is_refused(built: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text((built[1] / INDEX).read_text())
    with pytest.raises(WeightsError, match="isn't the file"):
        builder(tmp_path / "work", None).adopt(tmp_path)
    with pytest.raises(WeightsError, match="--keep FOLDER"):
        builder(tmp_path / "work", None).adopt(tmp_path / "none")


def test_the_latents_that_ship_are_equalized_and_need_no_scale(built: tuple[Path, Path], sources: Path) -> None:
    made = builder(built[0], sources)
    model, pictures = made.trained_autoencoder(), made.pictures("ae", (6, 6), 21)
    x = autoencoder.pixels([pictures.crop(k) for k in range(len(pictures))])
    latents = autoencoder.encode(model, x)
    assert model.config.scaling_factor == 1
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(8), atol=0.02)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(8), atol=0.02)


def test_folding_leaves_round_trips_as_they_were() -> None:
    model = autoencoder.new_autoencoder(3).eval()
    x = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before = model.encode(x).latent_dist
        decoded = model.decode(before.mean).sample
        spread = (before.std / before.mean.std((0, 2, 3), keepdim=True)).mean()
        autoencoder.equalize(model, x)
        after = model.encode(x).latent_dist
        assert torch.allclose(model.decode(after.mean).sample, decoded, atol=1e-4)
        assert torch.allclose(after.std.mean(), spread, rtol=1e-3)


def test_the_ladder_fits_the_presets_and_the_twins_differ_in_work_slots_alone() -> None:
    for preset in (PRESETS["cpu"], PRESETS["gpu"]):
        exposures = [w.exposures for w in world.works()]
        order = pool.fork_order(preset.plan, exposures)
        twin = pool.clean(order)
        slots = order.stream == pool.STREAMS.index("works")
        assert np.bincount(order.index[slots], minlength=len(exposures)).tolist() == exposures
        assert np.array_equal(order.stream[~slots], twin.stream[~slots])
        fresh = pool.base_order(preset.plan).count("fresh") / len(pool.base_order(preset.plan).stream)
        assert fresh == pytest.approx(preset.share, abs=0.01)


def test_timesteps_cover_the_pure_noise_and_favor_the_middle() -> None:
    t = denoiser.timesteps(20_000, torch.Generator().manual_seed(0))
    counts = torch.histc(t.float(), bins=10, min=0, max=1000) / len(t)
    assert t.min() == 0 and t.max() == 999 and (t == 999).sum() > 3
    assert counts[4:6].min() > 1.5 * counts[[0, 9]].max() and counts.min() > 0.05
