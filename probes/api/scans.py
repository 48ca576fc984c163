"""Which prompts look memorized, and which images are copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.api.call import Call
from probes.drawing.draw import USUAL_DETECTORS
from probes.inputs.given import Picture, Prompts, opened_picture
from probes.inputs.truth import copy_judge
from probes.runs.table import Table
from probes.scan.scan import scan as run_scan
from probes.testbed import criterion
from probes.testbed.checkpoint import Checkpoint
from probes.types import Judgement
from shield.errors import BadRequestError
from shield.model.loading import SHIPPED


def scan(
    model: Any,
    prompts: Prompts | None = None,
    *,
    detectors: Sequence[str] = USUAL_DETECTORS,
    seeds: Sequence[int] = (500,),
    pictures: bool = False,
    steps: int | None = None,
    guidance_scale: float | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Table:
    """Scores which prompts look memorized, by the first denoising step.

    Args:
        model: A pipeline, or a name, folder, file or hub id, as `shield.load` takes it.
        prompts: A list of prompts or a prompt file; None takes the testbed's own captions.
        detectors: Names of shield.detectors.DETECTORS. The first one flags.
        seeds: Noises that each prompt is scored with.
        pictures: Also draw them, and judge the copies of prompts with a reference picture.
        steps: Denoising steps of a whole picture; by default the model's own.
        guidance_scale: By default the model's own.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.

    Returns:
        A row for each prompt and seed: prompt, seed, score_DETECTOR, flagged (None: not calibrated), copied.

    Raises:
        AuditError: No prompts for a model nothing is known about.
        BadRequestError: An unknown detector.
        PromptFileError: Prompts that can't be read, or none.
        RunError: A folder that holds another run.
        WeightsError: A model that can't be loaded.
    """
    call = Call.on(model, out, device, resume, steps, guidance_scale)
    done = run_scan(
        call.file(prompts),
        call.folder,
        model=call.subject.name,
        pipe=call.subject.pipe,
        seeds=tuple(seeds),
        detectors=[detectors] if isinstance(detectors, str) else list(detectors),
        pictures=pictures,
        sampling=call.sampling,
        **call.options,
    )
    return Table(done.folder)


def judge(
    images: Sequence[Picture],
    references: Sequence[Picture | None],
    *,
    unrelated: Sequence[Picture] | None = None,
    model: str | None = None,
) -> list[Judgement]:
    """Tells whether each image copies its own reference.

    Args:
        images: Pictures or their files.
        references: As many; None for an image without one, which isn't judged.
        unrelated: Three or more pictures that don't copy each other, which the thresholds are made from; by default
            the references themselves, taken as such.
        model: "testbed": take its shipped thresholds.

    Returns:
        One judgement an image: scores of every metric, and `copied`, None with the reason where it can't be told.

    Raises:
        BadRequestError: Another number of references than of images, or no such thresholds.
        NotCalibratedError: Fewer than three pictures to make thresholds from. (A metric that can't score them, as PDQ
            can't flat ones, gives None.)
        PromptFileError: A file that is no picture.
    """
    if len(images) != len(references):
        raise BadRequestError(f"Each image needs its own reference: {len(images)} and {len(references)} were given.")
    if model is not None and (unrelated is not None or Checkpoint.of(model).truth is None):
        raise BadRequestError(
            f"Thresholds are shipped for {' and '.join(SHIPPED)}; else give unrelated pictures and no model."
        )
    ours = [opened_picture(picture) for picture in images]
    theirs = [None if picture is None else opened_picture(picture) for picture in references]
    if model is not None:
        return criterion.copy_judge().judge(ours, theirs)
    distinct = {(picture.size, picture.tobytes()): picture for picture in theirs if picture is not None}
    background = list(distinct.values()) if unrelated is None else [opened_picture(picture) for picture in unrelated]
    return copy_judge(background, "pictures that don't copy each other").judge(ours, theirs)
