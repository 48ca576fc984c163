"""A pipeline that watches itself: keeps memorized and protected pictures from leaving a text-to-image diffusion model.

Example:
    import shield

    pipe = shield.Shield(shield.load("testbed"))
    result = pipe("...")
    result.images, result.verdicts
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shield.model.loading import load

if TYPE_CHECKING:
    from shield.detectors import (
        DETECTORS,
        Anisotropy,
        AttentionEntropy,
        BrightEnding,
        KeptStructure,
        NoiseGap,
        Sharpness,
        SsimGap,
        Stability,
        StructureGap,
    )
    from shield.errors import (
        BadRequestError,
        CheckpointError,
        GalleryError,
        MissingExtraError,
        MissingSignalError,
        NotCalibratedError,
        RegistryError,
        ShieldError,
        TraceError,
        UnknownAttributeError,
        UnsupportedPipelineError,
        WeightsError,
    )
    from shield.mitigations import (
        MITIGATIONS,
        AttentionDamp,
        AttractRepel,
        ConceptProjection,
        EmbeddingDescent,
        EmbeddingMix,
        GalleryRepulsion,
        InitialNoise,
        NoiseMix,
        NullPrompt,
        OppositeGuidance,
        TokenProjection,
    )
    from shield.protected.concepts import Concept, Concepts
    from shield.protected.gallery import Gallery
    from shield.protected.meaning import Meaning
    from shield.reasons import Reason
    from shield.rewriters import (
        REWRITERS,
        ClauseDrop,
        ConceptSubstitution,
        Generalization,
        LanguageModel,
        TokenAttribution,
    )
    from shield.runtime.policy import Policy
    from shield.runtime.verdicts import VerdictLog
    from shield.thresholds import Threshold
    from shield.types import Detector, Mention, Mitigation, Rewriter, Score, Trace, Verdict
    from shield.version import __version__
    from shield.wrapper import Shield

_NAMES = {
    "shield.detectors": (
        "Anisotropy",
        "AttentionEntropy",
        "BrightEnding",
        "DETECTORS",
        "KeptStructure",
        "NoiseGap",
        "Sharpness",
        "SsimGap",
        "Stability",
        "StructureGap",
    ),
    "shield.mitigations": (
        "AttentionDamp",
        "AttractRepel",
        "ConceptProjection",
        "EmbeddingDescent",
        "EmbeddingMix",
        "GalleryRepulsion",
        "InitialNoise",
        "MITIGATIONS",
        "NoiseMix",
        "NullPrompt",
        "OppositeGuidance",
        "TokenProjection",
    ),
    "shield.rewriters": (
        "ClauseDrop",
        "ConceptSubstitution",
        "Generalization",
        "LanguageModel",
        "REWRITERS",
        "TokenAttribution",
    ),
    "shield.errors": (
        "BadRequestError",
        "CheckpointError",
        "GalleryError",
        "MissingExtraError",
        "MissingSignalError",
        "NotCalibratedError",
        "RegistryError",
        "ShieldError",
        "TraceError",
        "UnknownAttributeError",
        "UnsupportedPipelineError",
        "WeightsError",
    ),
    "shield.protected.concepts": ("Concept", "Concepts"),
    "shield.protected.gallery": ("Gallery",),
    "shield.protected.meaning": ("Meaning",),
    "shield.reasons": ("Reason",),
    "shield.runtime.policy": ("Policy",),
    "shield.runtime.verdicts": ("VerdictLog",),
    "shield.thresholds": ("Threshold",),
    "shield.types": ("Detector", "Mention", "Mitigation", "Rewriter", "Score", "Trace", "Verdict"),
    "shield.wrapper": ("Shield",),
    "shield.version": ("__version__",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Anisotropy",
    "AttentionDamp",
    "AttentionEntropy",
    "AttractRepel",
    "BadRequestError",
    "BrightEnding",
    "CheckpointError",
    "ClauseDrop",
    "Concept",
    "ConceptProjection",
    "ConceptSubstitution",
    "Concepts",
    "DETECTORS",
    "Detector",
    "EmbeddingDescent",
    "EmbeddingMix",
    "Gallery",
    "GalleryError",
    "GalleryRepulsion",
    "Generalization",
    "InitialNoise",
    "KeptStructure",
    "LanguageModel",
    "MITIGATIONS",
    "Meaning",
    "Mention",
    "MissingExtraError",
    "MissingSignalError",
    "Mitigation",
    "NoiseGap",
    "NoiseMix",
    "NotCalibratedError",
    "NullPrompt",
    "OppositeGuidance",
    "Policy",
    "REWRITERS",
    "Reason",
    "RegistryError",
    "Rewriter",
    "Score",
    "Sharpness",
    "Shield",
    "ShieldError",
    "SsimGap",
    "Stability",
    "StructureGap",
    "Threshold",
    "TokenAttribution",
    "TokenProjection",
    "Trace",
    "TraceError",
    "UnknownAttributeError",
    "UnsupportedPipelineError",
    "Verdict",
    "VerdictLog",
    "WeightsError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Imports torch and diffusers when something is used, not when `import shield` runs."""
    if name in _HOMES:
        try:
            home = import_module(_HOMES[name])
        except AttributeError as error:  # Python would only say that there is no such name
            raise ImportError(f"{name} can't be imported with the packages installed here: {error}.") from error
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
