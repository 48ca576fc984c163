"""A page that is really served, on tiny untrained models: the whole chain, without the effects."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shield.model.assets import ENVIRONMENT
from shield.model.loading import load
from shield.runtime.policy import preset
from shield.runtime.settings import setting_of
from shield.thresholds import calibrated, save_threshold
from tests.probes.tiny_testbed import tiny_testbed
from ui.app import launched, page_of
from ui.page import Page


@contextmanager
def weights(folder: Path, threshold: float | None = 1e6) -> Iterator[Path]:
    """A tiny testbed in the place of the shipped one, for this process and those that it starts.

    Its threshold is out of reach: what isn't protected by name isn't flagged. None: it has none.
    """
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = str(tiny_testbed(folder))
    try:
        setting = setting_of(load("testbed", device="cpu"), 25, 5.0) if threshold is not None else None
        for detector in preset("balanced").detectors if setting else ():
            save_threshold(calibrated(detector, [threshold] * 99, 0.05, setting, "testbed"), folder / "thresholds")
        yield folder
    finally:
        os.environ.pop(ENVIRONMENT)
        if before is not None:
            os.environ[ENVIRONMENT] = before


@contextmanager
def served(runs: Path, **options) -> Iterator[tuple[str, Page]]:
    """The page's address, and what is behind it."""
    page = page_of("testbed", runs, device="cpu")
    blocks = launched(page, **options)
    try:
        yield blocks.local_url, page
    finally:
        page.close()
        blocks.close(verbose=False)
