"""Ways to tell that a picture copies a protected one, the cheapest first.

ADD A DESCRIPTOR: one file with a class that has the members of `Descriptor` (found.py), and one line here. A gallery
uses all that are installed.
"""

from shield.protected.descriptors.dense import Dense
from shield.protected.descriptors.found import WHOLE, CopyLimit, Descriptor, Match, Region
from shield.protected.descriptors.local import Local
from shield.protected.descriptors.pixels import Pixels
from shield.protected.descriptors.sscd import Sscd

DESCRIPTORS: dict[str, type[Descriptor]] = {"pixels": Pixels, "sscd": Sscd, "local": Local, "dense": Dense}

__all__ = [
    "DESCRIPTORS",
    "WHOLE",
    "Dense",
    "Descriptor",
    "Match",
    "CopyLimit",
    "Local",
    "Pixels",
    "Region",
    "Sscd",
    "available",
]


def available() -> list[str]:
    """Names of the descriptors whose packages and models are installed."""
    return [name for name, descriptor in DESCRIPTORS.items() if descriptor.available()]
