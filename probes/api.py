"""The library: what the verbs do, of a pipeline or a name, and of a list of prompts or a file, in one call each.

A run folder is written as the verbs write it. Where none is given it is a temporary one, removed when Python ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from probes import pruners
from probes.attacks import AdversarialEmbedding
from probes.audit.audit import as_usual
from probes.audit.audit import audit as run_audit
from probes.audit.plan import FULL, Plan
from probes.audit.request import AuditRequest, Done, read_mask
from probes.drawing.draw import USUAL_DETECTORS, Sampling
from probes.inputs.given import Picture, Prompts, opened_picture, prompt_file, run_folder
from probes.inputs.truth import copy_judge
from probes.localizers import FFNSubspace
from probes.model.loading import subject_of
from probes.paths import as_path
from probes.report.summary import Summary
from probes.runs.table import Table
from probes.scan.scan import scan as run_scan
from probes.testbed import criterion
from probes.testbed.checkpoint import Checkpoint
from probes.types import Judgement, Localizer, Pruner, Subject, UnitMask
from probes.verbs.attack import ATTACK
from probes.verbs.attack import attack as run_attack
from probes.verbs.harden import HARDEN, STEPS, hardening, usual_lr
from probes.verbs.harden import harden as run_harden
from probes.verbs.localize import OPTIONS, localizer_of
from probes.verbs.localize import localize as run_localize
from shield.errors import BadRequestError
from shield.model.loading import SHIPPED


@dataclass(frozen=True)
class Results:
    """What a verb with pictures found.

    Attributes:
        folder: The run folder.
        report: Its report.html.
        summary: Its figures, as probes/audit/audit.py lists them.
        table: Its records, one row a picture.
    """

    folder: Path
    report: Path
    summary: Summary = field(repr=False)
    table: Table = field(repr=False)

    def images(self, **fields: Any) -> list[Image]:
        """Pictures of the table's rows with these values, for example images(stage="attacked", attack_steps=10).

        Args:
            **fields: Names and values of the table's columns.
        """
        return self.table.images(**fields)


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
    subject, folder = subject_of(model, device), run_folder(out, resume)
    done = run_scan(
        prompt_file(prompts, folder, "prompts"),
        folder,
        model=subject.name,
        pipe=subject.pipe,
        seeds=tuple(seeds),
        detectors=[detectors] if isinstance(detectors, str) else list(detectors),
        pictures=pictures,
        sampling=_sampling(subject, steps, guidance_scale),
        resume=resume,
        show_progress=False,
    )
    return Table(done.folder)


def localize(
    model: Any,
    prompts: Prompts | None = None,
    *,
    method: str | Localizer = FFNSubspace.name,
    base: str | Prompts | None = None,
    seed: int = 7,
    limit: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    **options: Any,
) -> UnitMask:
    """Finds the weights behind prompts. The model stays bit-equal.

    Args:
        model: As in `scan`.
        prompts: Memorized prompts, a list or a file; None takes the testbed's dev works.
        method: A name of probes.localizers.LOCALIZERS, or a localizer.
        base: What a localizer compares with: "null", "paraphrase", "nonmembers", "scenes", or prompts as above.
        seed: Decides the noise that all prompts start from.
        limit: Use the first prompts only.
        steps: Denoising steps; by default the model's own.
        guidance_scale: By default the model's own.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.
        **options: Of the method: k (share of each row's weights), tau (first steps that are watched), unit,
            normalize_tokens, conditional_only.

    Returns:
        Which weights of which modules, and in `meta` where the mask comes from.

    Raises:
        AuditError: No prompts for a model nothing is known about.
        BadRequestError: An unknown method or option.
        UnsupportedError: A model without such layers.
        PromptFileError, RunError, WeightsError: As in `scan`.
    """
    subject, folder = subject_of(model, device), run_folder(out, resume)
    file = prompt_file(prompts, folder, "prompts")
    sampling = _sampling(subject, steps, guidance_scale)
    checkpoint = Checkpoint.of(subject.name, subject.pipe)
    own: dict[str, Any] = {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    if unknown := options.keys() - OPTIONS.keys():
        raise BadRequestError(f"There is no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}.")
    localizer: Any
    if not isinstance(method, str):
        localizer = replace(method, **options) if options else method  # type: ignore[type-var]
    elif method == FFNSubspace.name and base is None:
        localizer = replace(as_usual(FULL, checkpoint).localizer, **own, **options)
    else:
        against = base if isinstance(base, str) else prompt_file(base, folder, "base")
        named = None if against is None else str(against)
        localizer = localizer_of(method, named, {**OPTIONS, **own, **options}, file, checkpoint, limit=limit)
    return run_localize(
        file,
        folder,
        localizer=localizer,
        model=subject.name,
        pipe=subject.pipe,
        limit=limit,
        seed=seed,
        resume=resume,
        show_progress=False,
    ).mask


@contextmanager
def pruned(
    model: Any, mask: UnitMask | Path | str, pruner: Pruner | None = None, *, device: str = "auto"
) -> Iterator[Any]:
    """The pipeline without the mask's weights inside the block; bit-equal afterwards, also after an exception.

    Args:
        model: As in `scan`.
        mask: A mask, its file, or a localize run's folder.
        pruner: What becomes of the weights; by default they are set to zero.
        device: Where a named model is loaded to.

    Yields:
        The pipeline.

    Raises:
        MaskError: A mask of another model.
        WeightsError: A model that can't be loaded.
    """
    subject = subject_of(model, device)
    with pruners.pruned(subject, mask if isinstance(mask, UnitMask) else read_mask(Path(mask)), pruner):
        yield subject.pipe


def attack(
    model: Any,
    works: Prompts | None = None,
    *,
    method: str = AdversarialEmbedding.name,
    mask: UnitMask | Path | str | None = None,
    nonmembers: Prompts | None = None,
    twin: str | None = None,
    attack_steps: Sequence[int] | None = None,
    seeds: Sequence[int] = ATTACK.picture_seeds,
    limit: int | None = None,
    batch: int = AdversarialEmbedding.batch,
    plan: Plan = ATTACK,
    steps: int | None = None,
    guidance_scale: float | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Results:
    """Tries to bring works back, beside the same search on non-members and on a clean twin.

    Args:
        model: As in `scan`.
        works: Works with their reference pictures, pairs (prompt, picture) or a file; None takes the testbed's. On the
            testbed its captions alone will do.
        method: A name of probes.attacks.ATTACKS.
        mask: Attack the model without these weights.
        nonmembers: Matched prompts and pictures that were never trained on, the control.
        twin: A model that never saw the works; the testbed has one.
        attack_steps: Step counts to judge at, up to the last.
        seeds: Noises that pictures are drawn with.
        limit: Use the first works only.
        batch: Draws of each search step.
        plan: Everything else, as probes.audit.plan has it.
        steps: Denoising steps of a picture; by default the model's own.
        guidance_scale: By default the model's own.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.

    Returns:
        Figures and pictures: images(stage="attacked", attack_steps=10) of the works, stages nonmember_attacked and
        twin_attacked of the controls. Only the gap between them shows memory.

    Raises:
        BadRequestError: An unknown attack, or step counts that can't be judged at.
        MaskError: A mask of another model.
        AuditError, PromptFileError, RunError, WeightsError: As in `scan`.
    """
    subject, folder = subject_of(model, device), run_folder(out, resume)
    request = _request(subject, folder, works, nonmembers, None, twin, limit, device)
    done = run_attack(
        folder,
        request,
        mask=_mask_file(mask, folder),
        steps=attack_steps,
        batch=batch,
        plan=replace(plan, sampling=_sampling(subject, steps, guidance_scale), picture_seeds=tuple(seeds)),
        method=method,
        resume=resume,
        show_progress=False,
    )
    return _results(done)


def harden(
    model: Any,
    works: Prompts | None = None,
    *,
    method: str = HARDEN.hardening.hardener.name,
    mask: UnitMask | Path | str | None = None,
    nonmembers: Prompts | None = None,
    benign: Prompts | None = None,
    twin: str | None = None,
    attack_steps: Sequence[int] = STEPS,
    seeds: Sequence[int] = HARDEN.picture_seeds,
    limit: int | None = None,
    plan: Plan = HARDEN,
    steps: int | None = None,
    guidance_scale: float | None = None,
    save: Path | str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    **amounts: Any,
) -> Results:
    """Trains memories out of the weights, and attacks again with the controls. The model itself stays bit-equal.

    Args:
        model: As in `scan`.
        works: As in `attack`.
        method: A name of probes.hardeners.HARDENERS.
        mask: Surrogates come from the model without these weights.
        nonmembers: As in `attack`.
        benign: Ordinary prompts: half are kept, half are judged by. None takes the testbed's scenes.
        twin: As in `attack`.
        attack_steps: Step counts to attack again at.
        seeds: Noises that pictures are drawn with.
        limit: Use the first works only.
        plan: Everything else, as probes.audit.plan has it.
        steps: Denoising steps of a picture; by default the model's own.
        guidance_scale: By default the model's own.
        save: Folder for the hardened model, as a diffusers checkpoint.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.
        **amounts: How much is trained: members, dev, keep, epochs, updates, lr, batch, rank.

    Returns:
        Figures and pictures of stages before, hardened, hardened_attacked and hardened_nonmember_attacked.

    Raises:
        BadRequestError: An unknown hardener or amount.
        AuditError, MaskError, PromptFileError, RunError, WeightsError: As in `attack`.
    """
    subject, folder = subject_of(model, device), run_folder(out, resume)
    request = _request(subject, folder, works, nonmembers, benign, twin, limit, device)
    much = hardening(method, **{"lr": usual_lr(Checkpoint.of(subject.name)), **amounts})
    done = run_harden(
        folder,
        request,
        mask=_mask_file(mask, folder),
        steps=attack_steps,
        plan=replace(
            plan,
            sampling=_sampling(subject, steps, guidance_scale),
            picture_seeds=tuple(seeds),
            sizes=replace(plan.sizes, members=much.members),
            hardening=much,
        ),
        save=as_path(save),
        resume=resume,
        show_progress=False,
    )
    return _results(done)


def audit(
    model: Any,
    prompts: Prompts | None = None,
    *,
    quick: bool = False,
    twin: str | None = None,
    limit: int | None = None,
    plan: Plan | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Results:
    """Scans, shields, locates, prunes, attacks and hardens a model, with controls, and writes one report.

    Args:
        model: As in `scan`.
        prompts: As in `attack`; None takes the testbed's works.
        quick: Few works and seeds.
        twin: A model that never saw the works; the testbed has one.
        limit: Use the first prompts only.
        plan: How much is done, as probes.audit.plan has it, in place of `quick`.
        out: Run folder to write; a temporary one by default.
        device: Where a named model is loaded to.
        resume: Go on with the run in `out`.

    Returns:
        The report, its figures and the pictures of every stage. What couldn't be judged is in summary["limits"].

    Raises:
        AuditError: No prompts for a model nothing is known about.
        PromptFileError, RunError, WeightsError: As in `scan`.
    """
    subject, folder = subject_of(model, device), run_folder(out, resume)
    done = run_audit(
        subject.name,
        folder,
        pipe=subject.pipe,
        quick=quick,
        prompts=prompt_file(prompts, folder, "prompts"),
        limit=limit,
        twin=twin,
        device=device,
        resume=resume,
        plan=plan,
        show_progress=False,
    )
    return _results(done)


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
        NotCalibratedError: Fewer than three pictures to make thresholds from.
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


def _results(done: Done) -> Results:
    return Results(done.folder, done.report, done.summary, Table(done.folder))


def _mask_file(mask: UnitMask | Path | str | None, folder: Path) -> Path | None:
    if not isinstance(mask, UnitMask):
        return as_path(mask)
    file = folder / "given.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    mask.save(file)
    return file


def _request(
    subject: Subject,
    folder: Path,
    works: Prompts | None,
    nonmembers: Prompts | None,
    benign: Prompts | None,
    twin: str | None,
    limit: int | None,
    device: str,
) -> AuditRequest:
    return AuditRequest(
        subject.name,
        prompt_file(works, folder, "prompts"),
        prompt_file(nonmembers, folder, "nonmembers"),
        prompt_file(benign, folder, "benign"),
        limit=limit,
        twin=twin,
        device=device,
        pipe=subject.pipe,
    )


def _sampling(subject: Subject, steps: int | None, guidance_scale: float | None) -> Sampling:
    return Sampling(*Checkpoint.of(subject.name, subject.pipe).sampling(steps, guidance_scale))
