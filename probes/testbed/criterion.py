"""When is a picture a copy of a work, on the testbed: two metrics of different kinds with shipped thresholds.

The worst of 16 tiles of pixels (Carlini) decides; PDQ, which looks at frequencies, is the second opinion. Tiles are
compared on the 16x16 grid of the latent: finer detail is lost to the slim autoencoder whether or not a picture was
memorized. There its reconstructions of the works lie at 0.03 (worst 0.07) and the nearest unrelated pair at 0.20.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from probes.metrics import CopyJudge, Metric, NormalizedL2, Pdq, TiledL2, load_calibrations
from probes.metrics.second_opinion import with_sscd
from probes.testbed.manifest import load_manifest
from shield.protected.pictures import open_image

SIDE = 16
MARGIN = 0.35  # of the way from the nearest unrelated pair to a perfect copy still isn't a copy


def metrics(background: Sequence[Image.Image]) -> tuple[Metric, ...]:
    """The first decides; `background` (the dev non-members) is what normalized L2 measures by."""
    return TiledL2(side=SIDE), Pdq(), NormalizedL2.against(background, side=SIDE)


def copy_judge(manifest: Path | None = None, sscd: Metric | None = None) -> CopyJudge:
    """The criterion with the thresholds shipped beside the manifest, and `sscd`, if any, as the last of its metrics.

    Raises NotCalibratedError without the thresholds.
    """
    found = load_manifest(manifest)
    background = [open_image(item.file) for item in found.nonmembers("dev") if item.file]
    judge = CopyJudge(metrics(background), load_calibrations(found.folder / "copy_metrics.json"))
    return with_sscd(judge, sscd, background)
