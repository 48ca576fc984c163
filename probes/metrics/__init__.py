"""What is measured: how much a picture copies another, how well it fits its caption, and how sure a figure is.

Importing this needs numpy and Pillow only; torch, FAISS and OpenCLIP are loaded by the metrics that use them.
ADD A COPY METRIC: one class with the fields of ``Metric`` in ``copies.py`` (or a file of its own) and a line here.
"""

from probes.metrics.alignment import Alignment
from probes.metrics.copies import Metric, NormalizedL2, Pdq, TiledL2, rgb
from probes.metrics.judge import Calibration, CopyJudge, calibrate, load_calibrations, save_calibrations
from probes.metrics.neighbors import Neighbor, ReferenceIndex
from probes.metrics.sscd import ImmaculateSscd, Sscd
from probes.metrics.statistics import (
    Interval,
    auroc,
    bootstrap_auroc,
    bootstrap_difference,
    bootstrap_mean,
    rate_interval,
    ratio_interval,
    tpr_at_fpr,
    wilson,
)

COPY_METRICS = {metric.name: metric for metric in (TiledL2, NormalizedL2, Pdq, Sscd, ImmaculateSscd)}

__all__ = [
    "COPY_METRICS",
    "Alignment",
    "Calibration",
    "CopyJudge",
    "ImmaculateSscd",
    "Interval",
    "Metric",
    "Neighbor",
    "NormalizedL2",
    "Pdq",
    "ReferenceIndex",
    "Sscd",
    "TiledL2",
    "auroc",
    "bootstrap_auroc",
    "bootstrap_difference",
    "bootstrap_mean",
    "calibrate",
    "load_calibrations",
    "rate_interval",
    "ratio_interval",
    "rgb",
    "save_calibrations",
    "tpr_at_fpr",
    "wilson",
]
