"""Fixtures for every test: one thread, no network, a tiny real pipeline."""

import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; for subprocesses too

import pytest  # noqa: E402
import torch  # noqa: E402

from shield.runtime import remains  # noqa: E402
from tests.tiny import tiny_sd  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory):
    """What diffshield keeps on this machine is neither read nor written by a test."""
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


@pytest.fixture
def no_memory_stays(monkeypatch):
    """Untrained models draw nearly the same picture for every prompt, which looks like a memory that stayed."""
    monkeypatch.setattr(remains, "LIMIT", math.inf)


def pytest_collection_modifyitems(items):
    """Workers share the tests out by name, so no name may hold what differs between two processes."""
    if changing := [item.nodeid[:200] for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"Tests are named after places in memory; give them ids: {changing[:3]}")
