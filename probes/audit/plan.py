"""How much an audit does: its sizes, its seeds, its methods and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from probes.attacks import AdversarialEmbedding, AnyAttack
from probes.drawing.agreement import BENIGN
from probes.drawing.draw import USUAL_DETECTORS, Sampling
from probes.hardeners import AdversarialFineTuning
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes
from probes.localizers import FFNSubspace
from probes.types import Hardener


@dataclass(frozen=True)
class Hardening:
    """How much hardening an audit does.

    ``members`` at most are removed, with ``dev`` further works that decide when to stop (0: never before the last
    epoch). ``keep`` ordinary captions are kept. A surrogate is the first of ``tries`` pictures that is no copy.
    ``controls`` non-members at most are attacked again, and as many scenes drawn.
    """

    members: int = 16
    dev: int = 4
    keep: int = 64
    tries: int = 2
    controls: int = 16
    hardener: Hardener = field(default_factory=AdversarialFineTuning)
    schedule: FineTuning = FineTuning()
    first_seed: int = 7000


# From the dev sweep of `diffshield bench localizers`: less of so small a model forgets too little.
TESTBED_LOCALIZER = FFNSubspace(k=0.5, tau=1, normalize_tokens=False, conditional_only=True)


BASE_SCENES = 24


TESTBED_LR = 2e-4  # chosen on dev: at a larger model's 1e-5 so small a one hardly moves


@dataclass(frozen=True)
class AuditPlan:
    """How much an audit does. Pictures, scans and localization have seeds of their own; none is used twice.

    So many ``benign`` prompts are drawn beside one's own, to compare agreement over seeds with.
    """

    sizes: Sizes = Sizes()
    picture_seeds: tuple[int, ...] = tuple(range(9000, 9010))
    scan_seeds: tuple[int, ...] = (500, 501, 502, 503)
    locate_seed: int = 7
    sampling: Sampling = Sampling()
    localizer: FFNSubspace = FFNSubspace(k=0.05, tau=10, steps=25, guidance_scale=5.0)
    attack: AnyAttack = AdversarialEmbedding()
    snapshots: tuple[int, ...] = (0, 1, 10, 25, 50)
    detectors: tuple[str, ...] = USUAL_DETECTORS
    init: str = "caption"
    init_prompt: str | None = None
    hardening: Hardening = Hardening()
    benign: int = BENIGN


FULL = AuditPlan()


QUICK = AuditPlan(
    sizes=Sizes(members=6, locate=12, per_rung=2, nonmembers=6, scenes=8),
    picture_seeds=(9000, 9001),
    scan_seeds=(500,),
    attack=AdversarialEmbedding(steps=25, batch=4),
    snapshots=(0, 10, 25),
    benign=12,
    hardening=Hardening(
        members=4,
        dev=0,
        keep=24,
        tries=1,
        controls=4,
        schedule=FineTuning(epochs=3, updates=8),
        hardener=AdversarialFineTuning(keep_batch=16, attack=AdversarialEmbedding(steps=10, batch=2)),
    ),
)
