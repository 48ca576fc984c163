"""Thresholds for copy scores from pictures that don't copy each other."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from probes.metrics import Calibration, Metric, Pdq, TiledL2, calibrate, save_calibrations
from probes.paths import takes_paths
from shield.errors import GalleryError, reason_of
from shield.protected.pictures import UNREADABLE, open_image, picture_files


@takes_paths
def calibrate_copies(
    pictures: Path, out: Path, *, false_copy_rate: float = 0.0, margin: float = 0.5
) -> list[Calibration]:
    """Thresholds of tiled L2 and PDQ from a folder of pictures that don't copy each other (the testbed has its own).

    A broken picture is an error before anything is written: left out silently it would change the thresholds.
    """
    if not pictures.is_dir():
        raise GalleryError(f"There is no folder of pictures at {pictures}; at least 3 are needed that copy nothing.")
    files = picture_files(pictures)
    loaded = [read_picture(file) for file in files]
    metrics: tuple[Metric, ...] = (TiledL2(), Pdq())
    found = [calibrate(metric, loaded, false_copy_rate, margin=margin, source=str(pictures)) for metric in metrics]
    save_calibrations(out, found)
    return found


def read_picture(path: Path) -> Image.Image:
    """A picture, loaded; GalleryError if the file is none or is broken."""
    try:
        return open_image(path)
    except UNREADABLE as error:
        raise GalleryError(f"{path} can't be read as a picture: {reason_of(error)}.") from error
