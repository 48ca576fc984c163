"""Pictures of benign prompts beside one's own, and whether a prompt's pictures agree more than theirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from probes.drawing.draw import Draw, jobs_for, record_stage
from probes.inputs.prompts import PromptRecord
from probes.metrics.agreement import agreement
from probes.model.truncated import uncounted
from probes.runs.folder import Run
from probes.runs.progress import ProgressCallback
from shield.benign.prompts import benign_prompts
from shield.errors import NotCalibratedError
from shield.protected.pictures import open_image

STAGE = "benign"
BENIGN = 20  # prompts that one's own are compared with
SEEDS = 4  # of each prompt, at most
SHOWN = 20  # prompts that a summary names


def record_benign(
    run: Run,
    model: str,
    seeds: Sequence[int],
    count: int,
    draw: Draw,
    batch: int,
    progress: ProgressCallback | None = None,
) -> None:
    """Stage "benign": pictures of benign prompts that ship, of the half that calibrates nothing."""
    targets = [PromptRecord(f"benign-{place:03d}", text, "benign") for place, text in enumerate(_benign(count))]
    with uncounted():
        record_stage(run, STAGE, model, jobs_for(targets, seeds[:SEEDS]), draw, batch_size=batch, progress=progress)


def _benign(count: int) -> list[str]:
    return benign_prompts("test", count)


def agreement_figures(run: Run, seeds: Sequence[int], stage: str = "before") -> dict[str, Any] | None:
    """Near-duplicates among the seeds of one's own prompts and of benign ones; None where there is nothing to compare.

    ``prompts`` holds the first SHOWN, with their texts.
    """
    wanted = set(seeds[:SEEDS])
    pictures: dict[str, dict[str, list[Image]]] = {stage: defaultdict(list), STAGE: defaultdict(list)}
    texts: dict[str, str] = {}
    for record in run.records():
        is_own = record["stage"] == stage and record["kind"] == "prompt"
        if (is_own or record["stage"] == STAGE) and record["seed"] in wanted and record["picture"]:
            pictures[record["stage"]][record["item"]].append(open_image(run.folder / record["picture"]))
            texts[record["item"]] = record["prompt"]
    if len(wanted) < 2 or not pictures[stage] or not pictures[STAGE]:
        return None
    try:
        found = agreement(pictures[stage], pictures[STAGE])
    except NotCalibratedError:
        return None
    named = [{**row, "prompt": texts[row["item"]]} for row in found["prompts"][:SHOWN]]
    return {**found, "seeds": len(wanted), "prompts": named}
