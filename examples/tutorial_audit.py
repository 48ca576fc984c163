"""An audit, step by step, small, on the shipped model: python examples/tutorial_audit.py OUT"""

import sys
from dataclasses import replace
from pathlib import Path

from probes.audit.plan import TESTBED_LOCALIZER
from probes.audit.request import AuditRequest
from probes.drawing.draw import Sampling
from probes.inputs.base_prompts import base_prompts
from probes.inputs.cohorts import Sizes
from probes.scan.scan import format_scan, scan
from probes.testbed.checkpoint import Checkpoint
from probes.verbs.attack import ATTACK, attack, format_attack
from probes.verbs.localize import format_mask, localize
from probes.verbs.prune import PRUNE, prune

out = Path(sys.argv[1])
sampling = Sampling(steps=25, guidance_scale=2.0)
request = AuditRequest("testbed", device="cpu")

# 1. Which prompts look memorized? One denoiser evaluation a prompt; here the testbed's own captions.
scanned = scan(None, out / "scan", sampling=sampling, device="cpu")
print("\n".join(format_scan(scanned.summary)[-4:]))

# 2. Where is it? Feed-forward weights that works of the dev split drive harder than benign scenes do.
localizer = replace(
    TESTBED_LOCALIZER, steps=25, guidance_scale=2.0, base=base_prompts("scenes", (), Checkpoint.of("testbed"))
)
located = localize(None, out / "mask", localizer=localizer, limit=4, device="cpu")
print("\n".join(format_mask(located.summary)))

# 3. Without these weights: held-out works, benign scenes, and as many random weights as a control.
small = Sizes(members=2, nonmembers=2, scenes=2)
pruned = prune(
    located.file, out / "pruned", request, plan=replace(PRUNE, sizes=small, sampling=sampling, picture_seeds=(9000,))
)
for row in pruned.summary["rows"]:
    print(f"{row['stage']}, {row['group']}: {row['copied']} of {row['n']} copies")

# 4. Gone, or only hidden? An adversarial embedding at equal budget on works, on pictures the model never saw, and on
# the twin that never saw the works. The verdict is the gap.
attacked = attack(
    out / "attacked",
    request,
    mask=located.file,
    steps=(0, 10),
    batch=4,
    plan=replace(ATTACK, sizes=small, sampling=sampling, picture_seeds=(9000,)),
)
print("\n".join(format_attack(attacked.summary)))
print(f"Reports: {pruned.report}, {attacked.report}")
