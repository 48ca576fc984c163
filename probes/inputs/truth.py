"""What is known about a model: the testbed's ground truth, a copy criterion, a measure of alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from probes.inputs.cohorts import Cohorts
from probes.inputs.pictures import reference_picture
from probes.metrics import Alignment, CopyJudge, Metric, NormalizedL2, Pdq, TiledL2, calibrate
from probes.metrics.second_opinion import sscd_metric, with_sscd
from probes.types import Criterion
from shield.errors import NotCalibratedError


def testbed_alignment() -> Alignment:
    from shield.model.assets import weights_dir

    return Alignment(weights_dir() / "testbed" / "openclip")


def judge_for(manifest: Any | None, cohorts: Cohorts) -> tuple[Criterion | None, tuple[str, ...]]:
    """A copy criterion calibrated on pictures that aren't copies of each other, and what to say about it."""
    if manifest is not None:
        from probes.testbed import criterion

        return criterion.copy_judge(sscd=sscd_metric()), ()
    files = sorted({target.reference for target in cohorts.prompts if target.reference is not None})
    if len(files) < 3:
        return None, ("Copies can't be judged: at least three prompts need a reference picture (a column picture).",)
    judge = copy_judge([reference_picture(file) for file in files], "leave-one-out neighbors of the reference pictures")
    told = "The copy criterion was calibrated on the reference pictures themselves, taken as unrelated to each other."
    return judge, (told, *judge.limits)


def copy_judge(pictures: Sequence[Image], source: str) -> CopyJudge:
    """Tiled L2 decides; normalized L2, PDQ and SSCD, where it is there, are kept beside it, as far as they can score
    these pictures.

    NotCalibratedError for fewer than three pictures.
    """
    decides = TiledL2()
    found, left_out = {decides.name: calibrate(decides, pictures, source=source)}, dict[str, str]()
    metrics: list[Metric] = [decides]
    for metric in (NormalizedL2.against(pictures), Pdq()):
        try:
            found[metric.name] = calibrate(metric, pictures, source=source)
            metrics.append(metric)
        except NotCalibratedError as error:
            left_out[metric.name] = str(error)
    return with_sscd(CopyJudge(metrics, found, left_out=left_out), sscd_metric(), pictures)
