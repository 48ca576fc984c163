"""Mitigations. To add one: write one file, add one line to SHIPPED."""

from shield.method_table import MethodTable
from shield.mitigations.attention_damp import AttentionDamp
from shield.mitigations.attract_repel import AttractRepel
from shield.mitigations.concept_projection import ConceptProjection
from shield.mitigations.embedding_descent import EmbeddingDescent
from shield.mitigations.embedding_mix import EmbeddingMix
from shield.mitigations.gallery_repulsion import GalleryRepulsion
from shield.mitigations.initial_noise import InitialNoise
from shield.mitigations.noise_mix import NoiseMix
from shield.mitigations.null_prompt import NullPrompt
from shield.mitigations.opposite_guidance import OppositeGuidance
from shield.mitigations.token_projection import TokenProjection
from shield.types import Mitigation

SHIPPED: dict[str, type[Mitigation]] = {
    "attention_damp": AttentionDamp,
    "attract_repel": AttractRepel,
    "concept_projection": ConceptProjection,
    "embedding_descent": EmbeddingDescent,
    "embedding_mix": EmbeddingMix,
    "gallery_repulsion": GalleryRepulsion,
    "initial_noise": InitialNoise,
    "noise_mix": NoiseMix,
    "null_prompt": NullPrompt,
    "opposite_guidance": OppositeGuidance,
    "token_projection": TokenProjection,
}

MITIGATIONS = MethodTable("diffusion_shield.mitigations", SHIPPED, needs=("needs_prompt",))

__all__ = [
    "MITIGATIONS",
    "AttentionDamp",
    "AttractRepel",
    "ConceptProjection",
    "EmbeddingDescent",
    "EmbeddingMix",
    "GalleryRepulsion",
    "InitialNoise",
    "NoiseMix",
    "NullPrompt",
    "OppositeGuidance",
    "TokenProjection",
]
