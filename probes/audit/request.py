"""What the verbs prune and attack share: who takes part, and an audit's stages opened on a run folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from probes.attacks import PromptSearch, TextFree
from probes.attacks.prompt_search import refuse_several_encoders
from probes.audit.plan import AuditPlan
from probes.audit.session import AuditSession, GroundTruth
from probes.errors import AuditError, MaskError
from probes.inputs.cohorts import Cohorts, cohorts_of_manifest, cohorts_of_prompts
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord, lost_pictures, read_prompts
from probes.inputs.truth import copy_judge, judge_for, testbed_alignment
from probes.metrics import Alignment
from probes.model.generate import encode_prompts
from probes.model.loading import load
from probes.paths import as_path
from probes.report.summary import Summary
from probes.runs.folder import Run
from probes.runs.progress import bars
from probes.runs.provenance import describe_input
from probes.testbed.checkpoint import Checkpoint
from probes.types import Criterion, Subject, UnitMask
from shield.model_names import is_same

SEARCHING = ("attack", "harden", "locality")
ELSEWHERE = ("device", "pipe", "say")  # what a run's configuration doesn't hold
NOTHING_JUDGED = "Pictures are drawn, scored by the detectors and compared with each other, and none counts as a copy."


@dataclass(frozen=True)
class AuditRequest:
    """The model and the prompts a verb works with. On the testbed all but ``model`` may be left out.

    ``prompts`` are works (with reference pictures, to judge copies), ``nonmembers`` matched prompts and pictures that
    were never trained on, ``benign`` ordinary prompts, ``openclip`` the folder of a model that measures alignment.
    ``pipe`` is the model itself, where it is loaded already; ``model`` is then what it is called. ``say`` is told what
    can't be judged, before the first picture.
    """

    model: str = "testbed"
    prompts: Path | None = None
    nonmembers: Path | None = None
    benign: Path | None = None
    column: str | None = None
    limit: int | None = None
    twin: str | None = None
    openclip: Path | None = None
    device: str = "auto"
    pipe: Any = field(default=None, repr=False, compare=False)
    say: Callable[[str], None] = field(default=lambda sentence: None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("prompts", "nonmembers", "benign", "openclip"):
            object.__setattr__(self, name, as_path(getattr(self, name)))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model, and what is known about it."""
        return Checkpoint.of(self.model, self.pipe)

    def inputs(self) -> list[dict[str, str]]:
        return [describe_input(path) for path in (self.prompts, self.nonmembers, self.benign) if path is not None]

    def cohorts(self, plan: AuditPlan) -> Cohorts:
        """Members, matched non-members and benign scenes. AuditError without prompts for an unknown model."""
        manifest = self.checkpoint.known(self.prompts)
        known = cohorts_of_manifest(manifest, plan.sizes) if manifest is not None else Cohorts()
        cohorts = replace(known, ladder=())
        if self.prompts is not None:
            prompts = read_prompts(self.prompts, column=self.column, limit=self.limit)
            cohorts = replace(cohorts, members=cohorts_of_prompts(prompts, manifest, plan.sizes).prompts, locate=())
        if self.nonmembers is not None:
            cohorts = replace(cohorts, nonmembers=_as("nonmember", self.nonmembers))
        if self.benign is not None:
            cohorts = replace(cohorts, scenes=_as("scene", self.benign), keep=())
        lost = lost_pictures([*cohorts.members, *cohorts.nonmembers])
        return replace(cohorts, limits=(*cohorts.limits, *lost))

    def judge(self, cohorts: Cohorts) -> tuple[Criterion | None, tuple[str, ...]]:
        """A copy criterion; calibrated on the non-members' pictures where a user gave at least three."""
        files = sorted({target.reference for target in cohorts.nonmembers if target.reference is not None})
        if self.checkpoint.truth is None and len(files) >= 3:
            pictures = [reference_picture(file) for file in files]
            judge = copy_judge(pictures, "leave-one-out neighbors of the non-members' pictures")
            return judge, judge.limits
        return judge_for(self.checkpoint.truth, replace(cohorts, prompts=cohorts.members))

    def alignment(self) -> Alignment | None:
        if self.openclip is not None:
            return Alignment(self.openclip)
        return testbed_alignment() if self.checkpoint.truth is not None else None


def _as(kind: str, file: Path) -> tuple[PromptRecord, ...]:
    """A file's prompts under another kind; their ids must not meet those of the works' file."""
    return tuple(replace(target, id=target.id.replace("prompt", kind), kind=kind) for target in read_prompts(file))


@dataclass(frozen=True)
class Done:
    """What a verb wrote: its folder, its report and its figures."""

    folder: Path
    report: Path
    summary: Summary = field(repr=False)


@contextmanager
def opened(
    kind: str,
    out: Path,
    request: AuditRequest,
    plan: AuditPlan,
    mask: UnitMask,
    more: dict[str, Any],
    *,
    resume: bool,
    show_progress: bool,
) -> Iterator[AuditSession]:
    """An audit's stages on ``out`` with a given mask; finishes the run when the block ends without an error.

    Everything that a user can get wrong is read before the run folder is made. MaskError for another model's mask,
    UnsupportedError for a model whose embeddings can't be searched, where a verb does that.
    """
    cohorts = request.cohorts(plan)
    request.checkpoint.check_twin(request.twin)
    if kind in SEARCHING and all(member.reference is None for member in cohorts.members):
        why = " ".join(lost_pictures(cohorts.members))
        raise AuditError(
            f"{kind} needs reference pictures, named by a column picture, and none of the {len(cohorts.members)} works "
            f"has one. {why}".rstrip()
        )
    judge, limits = request.judge(cohorts)
    alignment, inputs = request.alignment(), request.inputs()
    subject = request.checkpoint.subject(request.device)
    if kind in SEARCHING and not isinstance(plan.attack, TextFree):
        encode_prompts(subject, [""])  # refuses other families before a run folder is made
    if isinstance(plan.attack, PromptSearch):
        refuse_several_encoders(subject)
    mask.check(subject.denoiser)
    sha256 = subject.sha256()
    if not is_same(mask.meta.get("model_sha256", sha256), sha256):
        raise MaskError(
            f"This mask was located in another model than {request.model}: the weights differ. Make one for "
            f"it: diffshield localize PROMPTS --out FOLDER --model {request.model}."
        )
    twin = Subject(load(request.twin, device=request.device), request.twin) if request.twin else None
    known = GroundTruth(replace(cohorts, limits=(*cohorts.limits, *limits)), judge, twin, alignment)
    options = {one.name: getattr(request, one.name) for one in fields(request) if one.name not in ELSEWHERE}
    if judge is None:
        request.say(" ".join((*limits, NOTHING_JUDGED)))
    config = {**options, "plan": asdict(plan), **more}
    with (
        Run.start(
            out,
            config,
            resume=resume,
            kind=kind,
            inputs=inputs,
            model={"name": request.model, "sha256": sha256},
            seeds=plan.picture_seeds,
        ) as run,
        bars(show_progress) as track,
    ):
        yield AuditSession(run, subject, known, plan, track, mask)
        run.finish("complete")


def read_mask(path: Path) -> UnitMask:
    """A mask file, or the one in a localize run's folder."""
    return UnitMask.load(mask_file(path))


def mask_file(path: Path) -> Path:
    return path / "mask.safetensors" if path.is_dir() else path
