"""What threads that sleep sooner save beside other work: ten steps of the testbed, as a verb sets it and as it was.

OpenMP reads its settings when it is loaded, so each setting has a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.timing import Figure, figure
from probes.cli.main import SPINS

REPEATS = 9
TEN_STEPS = f"""
import json
from benchmarks.timing import seconds
from probes.model.generate import generators, quiet
from shield.model.loading import load
pipe = load("testbed")
with quiet(pipe):
    draw = lambda: pipe("a cat on a blue background", num_inference_steps=10, generator=generators([0]))
    print(json.dumps(seconds(draw, {REPEATS})))
"""


def measure() -> list[Figure]:
    """On quiet cores and beside one process that never rests; OpenMP's default against the verbs' GOMP_SPINCOUNT."""
    found = []
    for where, others in (("quiet cores", 0), ("beside a busy process", 1)):
        with busy(others):
            default, ours = ten_steps(None), ten_steps(SPINS)
        found += [
            figure(f"{where}: ten steps, OpenMP's default", default, "s"),
            figure(f"{where}: ten steps, as the verbs set it", ours, "s"),
            figure(f"{where}: the default takes longer", [a / b for a, b in zip(default, ours, strict=True)], "times"),
        ]
    return found


def ten_steps(spins: str | None) -> list[float]:
    """Seconds of each repeat, in a process with this GOMP_SPINCOUNT."""
    settings = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if spins is not None:
        settings["GOMP_SPINCOUNT"] = spins
    done = subprocess.run([sys.executable, "-c", TEN_STEPS], env=settings, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def busy(others: int) -> Iterator[None]:
    """So many processes that only count."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()
