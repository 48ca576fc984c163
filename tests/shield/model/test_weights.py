import importlib
import os
import subprocess
import sys

import pytest

import shield
from shield.errors import BadRequestError, WeightsError
from shield.model import assets
from shield.model.assets import read_manifest, verify, weights_dir, write_manifest
from shield.model.loading import resolved_device
from tests.tiny import tiny_sd


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny_sd().save_pretrained(folder / "testbed" / "memorized")
    (folder / "thresholds").mkdir()
    (folder / "thresholds" / "a.json").write_text("{}")
    write_manifest(folder, "Apache-2.0", lambda name: f"made for {name}")
    return folder


@pytest.fixture(autouse=True)
def weights_here(shipped, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(shipped))


def changed(path, text):
    before = path.read_bytes()
    path.write_bytes(text)
    return before


def test_manifest_lists_models_but_not_thresholds(shipped):
    listed = read_manifest(shipped)
    assert "testbed/memorized/unet/config.json" in listed and not any("thresholds" in name for name in listed)
    entry = listed["testbed/memorized/model_index.json"]
    assert entry["licence"] == "Apache-2.0" and entry["source"] == "made for testbed/memorized/model_index.json"
    assert entry["bytes"] == (shipped / "testbed/memorized/model_index.json").stat().st_size


def test_load_gives_the_shipped_model(shipped):
    pipe = shield.load("testbed", device="cpu")
    assert type(pipe).__name__ == "StableDiffusionPipeline" and pipe.safety_checker is None
    assert next(pipe.unet.parameters()).dtype.itemsize == 4
    assert shield.load(shipped / "testbed" / "memorized", "cpu", "float16").unet.dtype.itemsize == 2


def test_an_altered_file_is_named(shipped):
    path = shipped / "testbed/memorized/unet/config.json"
    before = changed(path, path.read_bytes().replace(b"8", b"9"))
    try:
        with pytest.raises(WeightsError, match=r"config\.json was altered"):
            shield.load("testbed", "cpu")
    finally:
        path.write_bytes(before)


def test_a_cut_file_is_named_with_its_size(shipped):
    path = shipped / "testbed/memorized/unet/diffusion_pytorch_model.safetensors"
    before = changed(path, path.read_bytes()[:1000])
    try:
        with pytest.raises(WeightsError, match="has 1000 bytes"):
            shield.load("testbed", "cpu")
    finally:
        path.write_bytes(before)


def test_missing_and_unlisted_files_are_named(shipped):
    path = shipped / "testbed/memorized/model_index.json"
    path.rename(path.with_suffix(".moved"))
    try:
        with pytest.raises(WeightsError, match=r"model_index\.json is missing"):
            verify(shipped)
    finally:
        path.with_suffix(".moved").rename(path)
    extra = shipped / "testbed/memorized/extra.bin"
    extra.write_bytes(b"x")
    try:
        with pytest.raises(WeightsError, match=r"extra\.bin isn't in manifest"):
            verify(shipped, "testbed/memorized")
    finally:
        extra.unlink()


@pytest.mark.parametrize("text", [None, b"[[file]", b"[[file]]\nname = 'a'", b"\xff\xfe", b""])
def test_a_broken_manifest_is_one_sentence(shipped, text):
    path = shipped / "manifest.toml"
    before = path.read_bytes()
    path.unlink() if text is None else path.write_bytes(text)
    try:
        with pytest.raises(WeightsError, match=r"manifest\.toml"):
            shield.load("testbed", "cpu")
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["testbed-clean", "nonsense", "/no/such/folder", "./a/b"])
def test_unknown_models_are_one_sentence(name):
    with pytest.raises(WeightsError) as error:
        shield.load(name, "cpu")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        shield.load(tmp_path, "cpu")


def test_devices_and_dtypes():
    assert resolved_device("cpu") == "cpu" and resolved_device() in ("cpu", "cuda", "mps")
    with pytest.raises(BadRequestError, match="toaster"):
        resolved_device("toaster")
    with pytest.raises(BadRequestError, match="float99"):
        shield.load("testbed", "cpu", "float99")


def test_weights_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="DIFFSHIELD_WEIGHTS"):
        weights_dir()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No folder is named, and the package lies outside of a checkout."""
    monkeypatch.delenv("DIFFSHIELD_WEIGHTS")
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "site" / "shield" / "model" / "assets.py"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_the_testbed_is_found_in_the_checkout_then_as_a_package_then_in_the_users_folder(nowhere):
    folders = [nowhere / "site" / "weights", nowhere / "site" / assets.PACKAGE, nowhere / "home" / "weights"]
    for folder in reversed(folders):
        folder.mkdir(parents=True)
        (folder / "manifest.toml").touch()
        importlib.invalidate_caches()
        assert weights_dir() == folder
    (folders[0] / "manifest.toml").unlink()
    assert weights_dir() == folders[1], "another's folder of that name"


def test_without_a_testbed_one_sentence_has_the_command(nowhere):
    with pytest.raises(WeightsError, match=r"pip install 'diffusion-shield\[testbed\]'") as error:
        shield.load("testbed", "cpu")
    assert str(nowhere / "home" / "weights") in str(error.value) and "\n" not in str(error.value)
    assert assets.stored_thresholds() == []


def test_what_a_user_calibrated_comes_before_what_was_shipped(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    assert assets.thresholds_folders() == [tmp_path / "thresholds", shipped / "thresholds"]


def test_manifest_escapes_what_toml_needs(tmp_path):
    (tmp_path / 'a "b".txt').write_text("x")
    write_manifest(tmp_path, 'MIT "or" so', "C:\\x")
    entry = read_manifest(tmp_path)['a "b".txt']
    assert entry["licence"] == 'MIT "or" so' and entry["source"] == "C:\\x"


def test_importing_shield_imports_no_torch_and_all_names_resolve():
    code = (
        "import sys, shield; assert 'torch' not in sys.modules and 'diffusers' not in sys.modules;"
        "assert callable(shield.load);"
        "import shield.model.loading as module; from shield import load; assert callable(load);"
        "[getattr(shield, name) for name in shield.__all__]; assert dir(shield) == sorted(shield.__all__)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=os.environ)
