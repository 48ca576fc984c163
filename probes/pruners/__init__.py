"""Pruners: what becomes of the weights of a mask. Add one: a file here, and a line in this table."""

from probes.pruners.pruned import pruned, save_pruned
from probes.pruners.scale_weights import ScaleWeights
from probes.pruners.zero_weights import ZeroWeights
from probes.types import Pruner

PRUNERS: dict[str, type[Pruner]] = {
    ZeroWeights.name: ZeroWeights,
    ScaleWeights.name: ScaleWeights,
}

__all__ = ["PRUNERS", "ScaleWeights", "ZeroWeights", "pruned", "save_pruned"]
