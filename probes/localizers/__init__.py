"""Localizers: which weights are behind a set of prompts. Add one: a file here, and a line in this table."""

from probes.localizers.curvature import Curvature
from probes.localizers.ffn_subspace import FFNSubspace
from probes.localizers.random_mask import RandomMask
from probes.localizers.value_neurons import ValueNeurons
from probes.types import Localizer
from shield.method_table import MethodTable

SHIPPED: dict[str, type[Localizer]] = {
    FFNSubspace.name: FFNSubspace,
    ValueNeurons.name: ValueNeurons,
    Curvature.name: Curvature,
    RandomMask.name: RandomMask,
}

LOCALIZERS = MethodTable("diffusion_shield.localizers", SHIPPED, needs=("locate",))

__all__ = ["LOCALIZERS", "Curvature", "FFNSubspace", "RandomMask", "ValueNeurons"]
