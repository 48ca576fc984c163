"""The pilot of an early exit: a finished scan of some prompts with all their seeds, read as calibration scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import EarlyExitError
from probes.paths import as_path
from probes.runs.folder import Run
from probes.runs.stage_log import Stages
from probes.scan.early_exit import Boundary, calibrated, prompts_needed
from shield.errors import BadRequestError, NotCalibratedError
from shield.runtime.command import command_line

PROMPTS = 300
_SAME = ("model", "seeds", "detectors", "steps", "sampling", "dtype")


@dataclass(frozen=True)
class EarlyExit:
    """``error``: the largest share of prompts that may be decided otherwise than by all seeds.

    ``pilot``: the folder of a finished scan with the same options and seeds; None: a scan of PROMPTS of the file's own
    prompts, or as many as the error needs. BadRequestError for an error outside of 0 to 0.5.
    """

    error: float = 0.01
    pilot: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pilot", as_path(self.pilot))
        if not 0.0 < self.error < 0.5:
            raise BadRequestError(f"An error lies between 0 and 0.5; {self.error:g} was given.")

    def prompts_of(self, total: int) -> int:
        """The pilot's size for a file of so many prompts. EarlyExitError if the file is too small for the error."""
        needed = prompts_needed(self.error)
        if total < needed:
            raise EarlyExitError(
                f"An error of {self.error:g} needs a pilot of {needed} prompts, and there are "
                f"{total}. Scan without --early-exit, or allow a larger --error."
            )
        return min(total, max(PROMPTS, 3 * needed))


def boundary_of(folder: Path, config: Mapping[str, Any], error: float) -> Boundary:
    """The boundary for a scan with this configuration.

    EarlyExitError for a pilot that isn't finished or was made with other options, NotCalibratedError where its first
    detector has no threshold, RunError if it is no run.
    """
    pilot = Run.open(folder)
    if pilot.status != "complete" or pilot.about["kind"] != "scan":
        raise EarlyExitError(f"The pilot {folder} is no complete scan; it is {pilot.status}.")
    other = next((key for key in _SAME if pilot.config.get(key) != config[key]), None)
    if other is not None:
        raise EarlyExitError(
            f"The pilot {folder} was made with another {other}: {pilot.config.get(other)}; this scan "
            f"has {config[other]}."
        )
    threshold = next(_thresholds(pilot), None)
    name = config["detectors"][0]
    if threshold is None:
        raise NotCalibratedError(
            f"Early exit needs a threshold of {name} for this model and these settings, and there "
            f"is none. Run `diffshield {calibrate_line(config)}`."
        )
    groups = itertools.groupby(pilot.records(), key=lambda record: record["item"])
    prompts = [[record["scores"].get(name) for record in records] for _, records in groups]
    scores = [[value for value in row if value is not None] for row in prompts if None not in row]
    return calibrated(scores, threshold, error)


def calibrate_line(config: Mapping[str, Any]) -> str:
    """The command that makes a scan's threshold, from the scan's configuration."""
    sampling, points = config["sampling"], config.get("points")
    return command_line(
        "calibrate",
        model=config["model"],
        detectors=config["detectors"][0],
        points=",".join(f"{point:g}" for point in points) if points else None,
        steps=sampling["steps"],
        guidance=f"{sampling['guidance_scale']:g}",
        dtype=config.get("dtype"),
        out=config.get("thresholds"),
    )


def _thresholds(pilot: Run) -> Iterator[float]:
    for entry in Stages(pilot.folder).entries:
        if entry["detail"].get("threshold") is not None:
            yield entry["detail"]["threshold"]
