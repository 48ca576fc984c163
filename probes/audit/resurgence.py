"""Does a removed memory come back by itself? Ordinary fine-tuning after pruning or hardening, then captions, attacks.

Suriyakumar et al., "Unstable Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models", 2024, arXiv
2410.08074: a model that was edited to forget draws what it forgot after fine-tuning on data that has nothing to do with
it. Ours trains all weights on benign captions, with their own pictures where the file has them and else with what the
edited model draws itself, and asks again at each number of updates. Non-members and a budget that doesn't change tell
resurgence from what an attack injects.

Stages of a run folder: then_kept (the pictures that are trained on), then_train (resurgence/UPDATES.safetensors), and
for each number resurged-N, resurged_attacked-N, resurged_nonmember_attacked-N.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from probes.audit.hardening_stages import encoded_pairs
from probes.audit.session import AuditSession
from probes.audit.stages import Stage
from probes.drawing.draw import jobs_for
from probes.errors import AuditError, DivergedError
from probes.hardeners.caption_fine_tuning import stacked
from probes.hardeners.training import hardened, restored
from probes.inputs.prompts import PromptRecord, read_prompts
from probes.model.training_loss import training_loss
from probes.report.figures import RateRow, difference, rate_row
from probes.runs.provenance import sha256_of
from probes.runs.tensors import write_tensors
from probes.types import Pair, Subject
from shield.errors import BadRequestError

KEPT = "kept"
SEED = 6000
NO_CAPTIONS = (
    "There are no ordinary captions to train on, so whether memories come back by themselves wasn't tried; "
    "--then-train takes a file of them."
)
NOT_TRAINED = "Nothing was trained on ordinary captions, so whether memories come back by themselves wasn't tried."


@dataclass(frozen=True)
class Resurgence:
    """How an edited model is trained on: ``source`` is a prompt file, or KEPT for the captions that a run keeps.

    ``updates`` are the numbers of AdamW steps (learning rate ``lr``, ``batch`` pairs each) after which it is asked
    again, ``attack_steps`` what the attack on the embedding gets then; 0 leaves it out. ``limit`` captions at most.
    """

    source: Path | str = KEPT
    updates: tuple[int, ...] = (0, 50, 200)
    attack_steps: int = 50
    lr: float = 1e-5
    batch: int = 8
    limit: int = 64

    def __post_init__(self) -> None:
        if not self.updates or min(self.updates) < 0 or self.attack_steps < 0 or self.lr <= 0:
            raise BadRequestError(
                f"Training goes on for 0 or more updates at a rate above 0, and the attack for 0 or more steps; "
                f"{', '.join(map(str, self.updates)) or 'no updates'}, {self.lr:g} and {self.attack_steps} were given."
            )

    def settings(self) -> dict[str, Any]:
        """For a run's configuration."""
        source = KEPT if self.source == KEPT else sha256_of(Path(self.source))
        return {"then": {**asdict(self), "source": source, "updates": list(self.updates)}}

    def captions(self, session: AuditSession) -> list[PromptRecord]:
        """What is trained on. AuditError for a work's own caption."""
        found = list(session.cohorts.keep) if self.source == KEPT else read_prompts(Path(self.source))
        works = {target.prompt for target in session.cohorts.members}
        if hits := [one.prompt for one in found if one.prompt in works]:
            raise AuditError(
                f"Training on ordinary captions needs captions of no judged work; {self.source} has {hits[0]!r}. "
                f"Take it out of the file."
            )
        return [replace(one, id=one.id.replace("prompt", "then"), kind="kept") for one in found[: self.limit]]


def resurge(
    session: AuditSession,
    how: Resurgence,
    edited: Callable[[], AbstractContextManager[Any]],
    members: Sequence[PromptRecord],
    nonmembers: Sequence[PromptRecord],
) -> list[dict[str, Any]]:
    """Train on inside ``edited()`` and ask again; a row for each number of updates. The model is bit-equal after."""
    captions = how.captions(session)
    own = [one for one in captions if one.reference is None]
    _do(session, "then_kept", lambda: _draw_own(session, edited, own), lambda _: None if captions else NO_CAPTIONS)
    needs_pictures = lambda s: None if s.stages.complete("then_kept") else NO_CAPTIONS  # noqa: E731
    _do(session, "then_train", lambda: _train(session, how, edited, captions), needs_pictures)
    return [_asked_again(session, how, count, members, nonmembers) for count in sorted(set(how.updates))]


def _do(
    session: AuditSession,
    name: str,
    work: Callable[[], Any],
    need: Callable[[AuditSession], str | None] = lambda session: (
        None if session.stages.complete("then_train") else NOT_TRAINED
    ),
) -> None:
    session.stages.do(name, lambda: Stage(lambda _: work(), (need,)).do(session))


def _draw_own(
    session: AuditSession, edited: Callable[[], AbstractContextManager[Any]], own: Sequence[PromptRecord]
) -> None:
    with edited():
        session.draw("then_kept", session.subject, jobs_for(own, [SEED]))


def _train(
    session: AuditSession,
    how: Resurgence,
    edited: Callable[[], AbstractContextManager[Any]],
    captions: Sequence[PromptRecord],
) -> dict[str, Any]:
    drawn = {r["item"]: session.run.folder / r["picture"] for r in session.records("then_kept") if r["picture"]}
    pictures = [drawn[one.id] if one.reference is None else one.reference for one in captions]
    pairs = encoded_pairs(session, [one.prompt for one in captions], pictures)
    with edited(), restored(session.subject.denoiser):
        train_on(session.subject, pairs, how, lambda count: _weights(session, count))
    own = sum(one.reference is None for one in captions)
    return {"captions": len(captions), "own_pictures": own, "lr": how.lr, "batch": how.batch}


def train_on(subject: Subject, pairs: Sequence[Pair], how: Resurgence, file: Callable[[int], Path]) -> None:
    """Ordinary fine-tuning of the whole denoiser, in float32; its weights at each number of updates go to a file.

    AuditError for a training that diverges.
    """
    dtype, denoiser = subject.dtype, subject.denoiser.float().requires_grad_(True)
    adam = torch.optim.AdamW(denoiser.parameters(), lr=how.lr)
    for count in range(max(how.updates) + 1):
        if count in how.updates:
            write_tensors(file(count), {name: value.to(dtype) for name, value in denoiser.state_dict().items()})
        if count == max(how.updates):
            return
        draw = torch.Generator().manual_seed(zlib.crc32(f"then {count}".encode()))
        picked = [pairs[place] for place in torch.randperm(len(pairs), generator=draw)[: how.batch].tolist()]
        loss = training_loss(subject, *stacked(subject, picked), [draw] * len(picked), 1).mean()
        if not torch.isfinite(loss):
            raise DivergedError(
                f"Training on ordinary captions diverged at update {count + 1}: its loss is {loss.item()}."
            )
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()


def _weights(session: AuditSession, count: int) -> Path:
    folder = session.run.folder / "resurgence"
    folder.mkdir(exist_ok=True)
    return folder / f"{count}.safetensors"


def _asked_again(
    session: AuditSession,
    how: Resurgence,
    count: int,
    members: Sequence[PromptRecord],
    nonmembers: Sequence[PromptRecord],
) -> dict[str, Any]:
    """Captions, and the attack with its control, after so many updates."""
    asked, attacked, control = (
        f"{name}-{count}" for name in ("resurged", "resurged_attacked", "resurged_nonmember_attacked")
    )
    subject, plan = session.subject, session.plan

    def draw() -> None:
        with hardened(subject, _weights(session, count)):
            session.draw(asked, subject, jobs_for([*members, *nonmembers], plan.picture_seeds))

    def attack(stage: str, targets: Sequence[PromptRecord]) -> dict[str, Any]:
        with hardened(subject, _weights(session, count)):
            return session.attack(stage, asked, subject, targets, steps=how.attack_steps)

    _do(session, asked, draw)
    if how.attack_steps:
        _do(session, attacked, lambda: attack(attacked, members))
        _do(session, control, lambda: attack(control, nonmembers))
    ids = {target.id for target in members}
    caption = [record for record in session.records(asked) if record["item"] in ids]
    unseen = [record for record in session.records(asked) if record["item"] not in ids]
    ours, theirs = (_rate(session, session.records(stage)) for stage in (attacked, control))
    return {
        "updates": count,
        "caption": _rate(session, caption),
        "caption_nonmembers": _rate(session, unseen),
        "attacked": ours,
        "attacked_nonmembers": theirs,
        "gap": difference(ours, theirs),
    }


def _rate(session: AuditSession, records: Sequence[Any]) -> RateRow:
    return rate_row(list(records), session.metric)


def format_resurgence(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The curve for a terminal."""
    lines = []
    for row in rows:
        said = [
            f"After {row['updates']} updates on ordinary captions: {_share(row['caption'])} copies from the caption"
        ]
        if row["attacked"]["n"]:
            said.append(
                f"{_share(row['attacked'])} from the attack ({_share(row['attacked_nonmembers'])} of non-members)"
            )
        lines.append(", ".join(said) + ".")
    return lines


def _share(row: RateRow) -> str:
    return "none judged," if row["rate"] is None else f"{row['copied']} of {row['n']}"
