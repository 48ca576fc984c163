"""Detectors. To add one: write one file, add one line to SHIPPED."""

from shield.detectors.anisotropy import Anisotropy
from shield.detectors.attention_entropy import AttentionEntropy
from shield.detectors.bright_ending import BrightEnding
from shield.detectors.kept_structure import KeptStructure
from shield.detectors.noise_gap import NoiseGap
from shield.detectors.sharpness import Sharpness
from shield.detectors.ssim_gap import SsimGap
from shield.detectors.stability import Stability
from shield.detectors.structure_gap import StructureGap
from shield.method_table import MethodTable
from shield.types import Detector

SHIPPED: dict[str, type[Detector]] = {
    "anisotropy": Anisotropy,
    "attention_entropy": AttentionEntropy,
    "bright_ending": BrightEnding,
    "kept_structure": KeptStructure,
    "noise_gap": NoiseGap,
    "sharpness": Sharpness,
    "ssim_gap": SsimGap,
    "stability": Stability,
    "structure_gap": StructureGap,
}

DETECTORS = MethodTable("diffusion_shield.detectors", SHIPPED, needs=("needs", "first_k", "score"))

__all__ = [
    "DETECTORS",
    "Anisotropy",
    "AttentionEntropy",
    "BrightEnding",
    "KeptStructure",
    "NoiseGap",
    "Sharpness",
    "SsimGap",
    "Stability",
    "StructureGap",
]
