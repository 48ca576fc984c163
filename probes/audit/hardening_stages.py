"""The stages of an audit that remove memories for good: what to train with, the training, and another attack.

    surrogates                    the pruned model's pictures of the members' captions, and of dev works'
    kept                          the model's own pictures of ordinary captions, which it has to keep
    harden                        the training (probes/hardeners/training.py); harden/hardened.safetensors,
                                  harden/checks.json
    hardened                      members, non-members and scenes as "before", with the hardened weights
    hardened_attacked             members on the hardened model, the budget of stage "attacked"
    hardened_nonmember_attacked   matched non-members on it, the same budget

Dev works are removed together with the members; whether they still come out, from the caption or from an attack, ends
the training early. No figure is about them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from probes.attacks import searching
from probes.audit.session import AuditSession
from probes.drawing.draw import jobs_for
from probes.hardeners.training import fine_tune, hardened
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import PromptRecord
from probes.model.batches import in_batches
from probes.model.generate import encode_pictures, encode_prompts, generate
from probes.pruners import pruned
from probes.runs.folder import write_json
from probes.runs.records import Record
from probes.types import Goal, Memory, Pair

NO_MEMORY = "There is no work with a reference picture to remove, so nothing was hardened."
NO_KEEP = (
    "There are no ordinary captions whose pictures the model could keep, so it wasn't hardened; diffshield "
    "harden takes them with --benign."
)
NO_WEIGHTS = "The model wasn't hardened, so there is nothing to attack again."


def members(session: AuditSession) -> list[PromptRecord]:
    """The members that are removed."""
    return [target for target in session.cohorts.members if target.reference is not None][
        : session.plan.hardening.members
    ]


def nonmembers(session: AuditSession) -> Sequence[PromptRecord]:
    """The non-members that are drawn and attacked again."""
    return session.cohorts.nonmembers[: session.plan.hardening.controls]


def dev(session: AuditSession) -> list[PromptRecord]:
    """The works that are removed with them and decide when to stop."""
    taken = {target.id for target in members(session)}
    return [target for target in session.cohorts.locate if target.reference is not None and target.id not in taken][
        : session.plan.hardening.dev
    ]


def has_memories(session: AuditSession) -> str | None:
    return None if members(session) else NO_MEMORY


def has_captions(session: AuditSession) -> str | None:
    return None if session.cohorts.keep[: session.plan.hardening.keep] else NO_KEEP


def has_material(session: AuditSession) -> str | None:
    return None if session.stages.complete("surrogates") and session.stages.complete("kept") else NO_KEEP


def has_weights(session: AuditSession) -> str | None:
    return None if session.stages.complete("harden") else NO_WEIGHTS


def surrogates(session: AuditSession) -> None:
    plan, targets = session.plan.hardening, [*members(session), *dev(session)]
    seeds = range(plan.first_seed, plan.first_seed + plan.tries)
    with pruned(session.subject, session.mask()):
        session.draw("surrogates", session.subject, jobs_for(targets, list(seeds)))


def kept(session: AuditSession) -> None:
    plan = session.plan.hardening
    targets = [replace(target, kind="kept") for target in session.cohorts.keep[: plan.keep]]
    session.draw("kept", session.subject, jobs_for(targets, [plan.first_seed + plan.tries]))


def harden(session: AuditSession) -> dict[str, Any]:
    """The training. What was trained, for how long, and what the checks on dev works found."""
    plan, works = session.plan.hardening, [*members(session), *dev(session)]
    keep = _pairs_of(session, session.records("kept"))
    memories, borrowed = _memories(session, works, session.records("surrogates"), keep)
    judged = session.truth.judge is not None and dev(session)
    check = EarlyStop(session, memories[len(members(session)) :]) if judged else None
    tuned = fine_tune(
        session.subject,
        plan.hardener,
        memories,
        keep,
        plan.schedule,
        session.run.folder / "harden",
        check=check,
        progress=session.track("harden"),
    )
    return {
        "hardener": plan.hardener.name,
        "works": [target.id for target in members(session)],
        "dev": [target.id for target in dev(session)],
        "keep": len(keep),
        "borrowed_surrogates": borrowed,
        "rounds": tuned.rounds,
        "epochs": tuned.rounds / plan.schedule.rounds(len(memories)),
        "stopped_early": tuned.stopped,
        "parameters": tuned.parameters,
        "rank": plan.schedule.rank,
        "lr": plan.schedule.lr,
        "checks": check.rows() if check is not None else [],
    }


def draw(session: AuditSession) -> None:
    scenes = session.cohorts.scenes[: session.plan.hardening.controls]
    targets = dict.fromkeys([*members(session), *nonmembers(session), *scenes])
    with hardened(session.subject, _weights(session)):
        session.draw("hardened", session.subject, jobs_for(list(targets), session.plan.picture_seeds))


def attack_members(session: AuditSession) -> dict[str, Any]:
    with hardened(session.subject, _weights(session)):
        return session.attack("hardened_attacked", "hardened", session.subject, members(session))


def attack_nonmembers(session: AuditSession) -> dict[str, Any]:
    with hardened(session.subject, _weights(session)):
        return session.attack("hardened_nonmember_attacked", "hardened", session.subject, nonmembers(session))


def _weights(session: AuditSession) -> Path:
    return session.run.folder / "harden" / "hardened.safetensors"


def encoded_pairs(session: AuditSession, prompts: Sequence[str], pictures: Sequence[Path]) -> list[Pair]:
    """Pictures with their prompts, as the denoiser sees them."""

    def encoded(some: Sequence[Path]) -> list[torch.Tensor]:
        return list(encode_pictures(session.subject, [reference_picture(path) for path in some]).cpu())

    latents = in_batches(encoded, pictures, session.plan.sampling.batch_size)
    return [Pair(*pair) for pair in zip(latents, encode_prompts(session.subject, prompts).cpu(), strict=True)]


def _pairs_of(session: AuditSession, records: Sequence[Record]) -> list[Pair]:
    return encoded_pairs(
        session,
        [record["prompt"] for record in records],
        [session.run.folder / picture for record in records if (picture := record["picture"])],
    )


def _memories(
    session: AuditSession, works: Sequence[PromptRecord], drawn: Sequence[Record], keep: Sequence[Pair]
) -> tuple[list[Memory], int]:
    """Works with their surrogates, and for how many of these the pruned model drew nothing but copies.

    Such a work borrows an ordinary caption's picture: less like what it should be, but not the work.
    """
    usable = {record["item"]: record for record in reversed(drawn) if not record["copied"]}
    found = [work.id for work in works if work.id in usable]
    surrogates = dict(zip(found, _pairs_of(session, [usable[item] for item in found]), strict=True)) if found else {}
    memories = []
    for work, pair in zip(
        works,
        encoded_pairs(session, [work.prompt for work in works], [work.reference for work in works if work.reference]),
        strict=True,
    ):
        number = zlib.crc32(work.id.encode())
        surrogate = surrogates.get(work.id) or keep[number % len(keep)]
        memories.append(Memory(Goal(work.id, pair.latents, pair.prompt_embeds, number), surrogate.latents))
    return memories, len(works) - len(found)


class EarlyStop:
    """Ends a training when no dev work comes out any more, neither from its caption nor from the attack."""

    def __init__(self, session: AuditSession, memories: Sequence[Memory]) -> None:
        self._session, self._goals = session, [memory.goal for memory in memories]
        self._file = session.run.folder / "harden" / "checks.json"
        self._file.parent.mkdir(exist_ok=True)  # a first check may come before the first checkpoint

    def rows(self) -> list[dict[str, Any]]:
        """One for each epoch: dev works that came out from the caption and from the attack, of how many judged."""
        return json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else []

    def __call__(self, epoch: int) -> bool:
        attack = searching(self._session.plan.attack)
        goals = [replace(goal, seed=zlib.crc32(f"check {epoch} {goal.id}".encode())) for goal in self._goals]
        found = attack.search(self._session.subject, goals)
        row = {
            "epoch": epoch,
            **self._came_out("caption", [goal.prompt_embeds for goal in goals]),
            **self._came_out("attack", [one.prompt_embeds[attack.steps] for one in found]),
        }
        write_json(self._file, [*(other for other in self.rows() if other["epoch"] < epoch), row])
        return row["caption_judged"] * row["attack_judged"] > 0 and not row["caption"] and not row["attack"]

    def _came_out(self, name: str, embeds: Sequence[torch.Tensor]) -> dict[str, int]:
        session, judge = self._session, self._session.truth.judge
        assert judge is not None
        sampling, plan = session.plan.sampling, session.plan.hardening
        seed = plan.first_seed + plan.tries + 1
        pictures = generate(
            session.subject.pipe,
            torch.stack(list(embeds)),
            [seed] * len(embeds),
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            batch_size=sampling.batch_size,
        )
        works = {target.id: target for target in dev(session)}
        references = [reference_picture(works[goal.id].reference) for goal in self._goals]
        copied = [one.copied for one in judge.judge(pictures, references)]
        return {name: copied.count(True), f"{name}_judged": len(copied) - copied.count(None)}
