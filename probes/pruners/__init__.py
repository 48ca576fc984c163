"""Pruners: what becomes of the weights of a mask. Add one: a file here, and a line in this table."""

from probes.pruners.pruned import pruned, replaced, save_pruned
from probes.pruners.resample_weights import ResampleWeights
from probes.pruners.scale_weights import ScaleWeights
from probes.pruners.zero_weights import ZeroWeights
from probes.types import Pruner

PRUNERS: dict[str, type[Pruner]] = {
    ZeroWeights.name: ZeroWeights,
    ScaleWeights.name: ScaleWeights,
    ResampleWeights.name: ResampleWeights,
}

__all__ = ["PRUNERS", "ResampleWeights", "ScaleWeights", "ZeroWeights", "pruned", "replaced", "save_pruned"]
