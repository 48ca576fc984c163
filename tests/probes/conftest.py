"""Fixtures of the probes' tests: a shipped folder of tiny untrained models, and a module that takes it as its own."""

import pytest

from tests.probes.tiny_testbed import tiny_testbed


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_testbed(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def shipped(weights):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFSHIELD_WEIGHTS", str(weights))
        yield
