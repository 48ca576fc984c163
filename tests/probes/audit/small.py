"""A plan of an audit that takes seconds on a tiny model."""

from probes.attacks import AdversarialEmbedding
from probes.audit.plan import AuditPlan, Hardening
from probes.drawing.draw import Sampling
from probes.hardeners import CaptionFineTuning
from probes.hardeners.training import FineTuning
from probes.inputs.cohorts import Sizes
from probes.localizers import FFNSubspace

PLAN = AuditPlan(
    Sizes(2, 2, 1, 1, 1),
    picture_seeds=(1, 2),
    benign=3,
    scan_seeds=(3,),
    sampling=Sampling(2, 5.0, 4),
    localizer=FFNSubspace(k=0.05, tau=1, steps=2, guidance_scale=5.0),
    attack=AdversarialEmbedding(steps=2, batch=1),
    snapshots=(0, 2),
    hardening=Hardening(
        members=2,
        dev=1,
        keep=2,
        tries=1,
        hardener=CaptionFineTuning(1.0, 1, 1),
        schedule=FineTuning(epochs=1, updates=1, batch=2),
    ),
)
