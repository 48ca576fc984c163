"""Fixtures of the probes' tests: a checkpoint of one's own, and a shipped folder of tiny models, taken as its own."""

import pytest

from tests.probes.tiny_testbed import tiny_testbed
from tests.tiny import tiny_sd


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_testbed(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def shipped(weights):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFSHIELD_WEIGHTS", str(weights))
        yield
