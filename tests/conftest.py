"""Fixtures for every test: one thread, no network, a tiny real pipeline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; for subprocesses too

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.tiny import tiny_sd  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """A data folder of the tests' own: what this machine's user calibrated decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFSHIELD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def pipe():
    """A tiny Stable Diffusion with v-prediction and zero terminal signal."""
    return tiny_sd()


@pytest.fixture(params=["epsilon", "v_prediction"])
def any_pipe(request):
    """A tiny Stable Diffusion of each prediction type."""
    return tiny_sd(request.param)


def pytest_collection_modifyitems(items):
    """Workers share the tests out by name, so no name may hold what differs between two processes."""
    if changing := [item.nodeid[:200] for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"Tests are named after places in memory; give them ids: {changing[:3]}")
