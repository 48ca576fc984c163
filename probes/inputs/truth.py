"""What is known about a model: the testbed's ground truth, a copy criterion, a measure of alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from probes.inputs.cohorts import Cohorts
from probes.inputs.pictures import reference_picture
from probes.metrics import Alignment, CopyJudge, NormalizedL2, Pdq, TiledL2, calibrate
from probes.types import Criterion


def testbed_alignment() -> Alignment:
    from shield.model.assets import weights_dir

    return Alignment(weights_dir() / "testbed" / "openclip")


def judge_for(manifest: Any | None, cohorts: Cohorts) -> tuple[Criterion | None, tuple[str, ...]]:
    """A copy criterion calibrated on pictures that aren't copies of each other, and what to say about it."""
    if manifest is not None:
        from probes.testbed import criterion

        return criterion.copy_judge(), ()
    files = sorted({target.reference for target in cohorts.prompts if target.reference is not None})
    if len(files) < 3:
        return None, ("Copies can't be judged: at least three prompts need a reference picture (a column picture).",)
    return copy_judge(
        [reference_picture(file) for file in files], "leave-one-out neighbors of the reference pictures"
    ), ("The copy criterion was calibrated on the reference pictures themselves, taken as unrelated to each other.",)


def copy_judge(pictures: Sequence[Image], source: str) -> CopyJudge:
    """Tiled L2 decides; normalized L2 and PDQ are kept beside it. NotCalibratedError for fewer than three pictures."""
    metrics = (TiledL2(), NormalizedL2.against(pictures), Pdq())
    return CopyJudge(metrics, {metric.name: calibrate(metric, pictures, source=source) for metric in metrics})
