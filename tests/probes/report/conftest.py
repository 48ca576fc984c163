"""The demo run as a fixture."""

from pathlib import Path

import pytest

from tests.probes.report.demo import demo_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return demo_run(tmp_path / "demo")
