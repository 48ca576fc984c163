"""Thresholds for a model from prompts that are known not to be memorized, and for copy scores from unlike pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from probes.inputs.prompts import read_prompts
from probes.metrics import Calibration, Metric, Pdq, TiledL2, calibrate, save_calibrations
from probes.paths import takes_paths
from probes.runs.progress import added_up
from probes.testbed.checkpoint import Checkpoint
from probes.testbed.negatives import KINDS, dev_negatives
from shield.errors import BadRequestError, GalleryError
from shield.protected.pictures import UNREADABLE, open_image, picture_files
from shield.thresholds import Threshold, save_threshold


@takes_paths
def calibrate_detectors(
    model: str,
    detectors: Sequence[str],
    out: Path,
    *,
    prompts: Path | None = None,
    negatives: Sequence[str] = KINDS,
    seeds: Sequence[int],
    fpr: float,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 16,
    points: Sequence[float] | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Threshold]:
    """One threshold file for each detector, or for each of them at each of `points`, shares of the schedule, with one
    false-alarm rate for all of them; returns them by path.

    Without ``prompts`` the testbed's own negatives are used, which hold for the testbed only
    (probes/testbed/negatives.py): BadRequestError for another model, for an unknown detector, and for too few
    negatives.
    """
    from shield.calibration.detectors import Sampling
    from shield.calibration.detectors import calibrate as calibrated_by
    from shield.calibration.trajectories import calibrate_trajectory
    from shield.detectors import DETECTORS
    from shield.runtime.trajectory import detectors_at

    unknown = [name for name in detectors if name not in DETECTORS]
    if unknown or not detectors:
        raise BadRequestError(f"There is no detector {', '.join(unknown)!r}; use {', '.join(DETECTORS)}.")
    checkpoint = Checkpoint.of(model)
    if prompts is None and checkpoint.truth is None:
        raise BadRequestError(f"Nobody knows which prompts {model} didn't memorize: give a file of them: --prompts.")
    checkpoint = checkpoint.loaded(device)
    pipe = checkpoint.pipe
    captions = (
        [target.prompt for target in read_prompts(prompts)] if prompts else dev_negatives(pipe, negatives, progress)
    )
    source = str(prompts) if prompts else f"testbed dev {' and '.join(negatives)} that bring out no work"
    sampling = Sampling(*checkpoint.sampling(steps, guidance_scale), batch_size)
    told = added_up(progress, len(captions) * len(seeds))
    common = (captions, list(seeds), fpr, model, sampling, {"negatives": source}, told)
    chosen = [DETECTORS[name]() for name in detectors]
    if points:
        thresholds = calibrate_trajectory(pipe, detectors_at(chosen, points), *common)
    else:
        thresholds = calibrated_by(pipe, chosen, *common)
    return {save_threshold(threshold, out): threshold for threshold in thresholds}


@takes_paths
def calibrate_copies(
    pictures: Path, out: Path, *, false_copy_rate: float = 0.0, margin: float = 0.5
) -> list[Calibration]:
    """Thresholds of tiled L2 and PDQ from a folder of pictures that don't copy each other (the testbed has its own).

    A broken picture is an error before anything is written: left out silently it would change the thresholds.
    """
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
        raise GalleryError(f"{path} can't be read as a picture: {error}.") from error
