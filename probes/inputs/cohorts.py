"""Who takes part in an audit: works to locate with, works to judge by, matched non-members, benign scenes.

On the testbed the manifest knows the truth. Weights are located with "dev" works and everything is judged on "heldout"
ones. In a user's prompt file nobody knows: prompts that the scan flags, or that come out as copies of their reference,
are suspects; every other one is used to locate with and the rest to judge by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probes.inputs.prompts import PromptRecord, prompt_record


@dataclass(frozen=True)
class Cohorts:
    """Prompts by role. ``members`` and ``locate`` share none, unless ``limits`` says why.

    ``keep`` are ordinary captions that a hardened model has to go on answering; nothing is judged by them.
    """

    members: tuple[PromptRecord, ...] = ()
    locate: tuple[PromptRecord, ...] = ()
    ladder: tuple[PromptRecord, ...] = ()
    nonmembers: tuple[PromptRecord, ...] = ()
    scenes: tuple[PromptRecord, ...] = ()
    prompts: tuple[PromptRecord, ...] = ()
    keep: tuple[PromptRecord, ...] = ()
    limits: tuple[str, ...] = ()

    def drawn(self) -> tuple[PromptRecord, ...]:
        """Everything that stages "scan" and "before" make, each once."""
        every = (*self.members, *self.ladder, *self.nonmembers, *self.scenes, *self.prompts)
        return tuple({target.id: target for target in every}.values())


@dataclass(frozen=True)
class Sizes:
    """How many targets of each role; ``per_rung`` is for each rung of the ladder."""

    members: int = 16
    locate: int = 16
    per_rung: int = 4
    nonmembers: int = 16
    scenes: int = 20


def cohorts_of_manifest(manifest: Any, sizes: Sizes) -> Cohorts:
    """Heldout works of the top two rungs as members, the rest of the ladder, heldout non-members and scenes.

    Verbatim works only: a template's reference is one of many right pictures.
    """
    top = [rung for rung in manifest.rungs if rung > 0][-2:]
    heldout = _by_rung(manifest.works(split="heldout", memorization="VM"))
    dev = _by_rung(manifest.works(split="dev", memorization="VM"))
    ladder = [target for rung in sorted(heldout) for target in heldout[rung][: sizes.per_rung]]
    scenes = [
        PromptRecord(scene.id, scene.caption, "scene", split=scene.split)
        for scene in manifest.scenes(split="heldout")[: sizes.scenes]
    ]
    nonmembers = [prompt_record(item) for item in manifest.nonmembers(split="heldout")[: sizes.nonmembers]]
    members = _spread([heldout.get(rung, []) for rung in reversed(top)], sizes.members)
    locate = _spread([dev.get(rung, []) for rung in reversed(top)], sizes.locate)
    return Cohorts(tuple(members), tuple(locate), tuple(ladder), tuple(nonmembers), tuple(scenes), keep=_kept(manifest))


def _kept(manifest: Any) -> tuple[PromptRecord, ...]:
    """Dev scenes and dev non-members, in turn."""
    scenes = [
        PromptRecord(scene.id, scene.caption, "scene", split=scene.split) for scene in manifest.scenes(split="dev")
    ]
    nonmembers = [prompt_record(item) for item in manifest.nonmembers(split="dev")]
    return tuple(_spread([scenes, nonmembers], len(scenes) + len(nonmembers)))


def _by_rung(items: Sequence[Any]) -> dict[int, list[PromptRecord]]:
    found: dict[int, list[PromptRecord]] = {}
    for item in items:
        found.setdefault(item.rung or 0, []).append(prompt_record(item))
    return found


def _spread(groups: Sequence[Sequence[PromptRecord]], count: int) -> list[PromptRecord]:
    """At most ``count`` targets, taken from each group in turn."""
    longest = max(map(len, groups), default=0)
    turns = [group[place] for place in range(longest) for group in groups if place < len(group)]
    return turns[:count]


def cohorts_of_prompts(targets: Sequence[PromptRecord], manifest: Any | None, sizes: Sizes) -> Cohorts:
    """A user's prompts. With a manifest, prompts that equal a caption get its truth, and its controls take part."""
    if manifest is None:
        return Cohorts(
            prompts=tuple(targets),
            limits=(
                "There are no matched non-members and no clean twin for this model, so an attack's success can't be "
                "told "
                "from injection; it is shown without a verdict.",
            ),
        )
    prompts = tuple(with_truth(targets, manifest))
    controls = cohorts_of_manifest(manifest, sizes)
    return Cohorts(prompts=prompts, nonmembers=controls.nonmembers, scenes=controls.scenes, keep=controls.keep)


def with_truth(targets: Iterable[PromptRecord], manifest: Any | None) -> Iterator[PromptRecord]:
    """The prompts one at a time; those that equal a caption of the manifest get what it knows."""
    known = {
        caption.casefold(): prompt_record(item, place)
        for item in (manifest.items if manifest else ())
        for place, caption in enumerate(item.captions)
    }
    return (_with_truth(target, known.get(target.prompt.casefold())) for target in targets)


def _with_truth(target: PromptRecord, known: PromptRecord | None) -> PromptRecord:
    """The user's prompt with a manifest's truth; it stays a prompt: the cohorts' works are others."""
    return (
        target
        if known is None
        else replace(
            known,
            id=target.id,
            prompt=target.prompt,
            kind="prompt",
            reference=target.reference or known.reference,
            columns=target.columns,
        )
    )


def with_suspects(cohorts: Cohorts, records: Sequence[Mapping[str, Any]]) -> Cohorts:
    """A user's prompts after stages "scan" and "before": suspects are shared out between locating and judging."""
    if not cohorts.prompts:
        return cohorts
    suspected = {record["item"] for record in records if record.get("flagged") or record.get("copied")}
    suspects = [target for target in cohorts.prompts if target.id in suspected]
    locate, members = suspects[::2], suspects[1::2]
    limits = cohorts.limits
    if len(suspects) == 1:
        members = suspects
        limits += ("Only one prompt looks memorized; the weights were located with it and judged by it.",)
    return replace(cohorts, locate=tuple(locate), members=tuple(members), limits=limits)


def with_dev(cohorts: Cohorts) -> Cohorts:
    """Members and ordinary captions shared out, where nobody did: a third of the members decides when to stop."""
    if cohorts.locate and cohorts.keep:
        return cohorts
    if not cohorts.locate and len(cohorts.members) > 2:
        cohorts = replace(
            cohorts,
            locate=cohorts.members[::3],
            members=tuple(member for place, member in enumerate(cohorts.members) if place % 3),
        )
    if not cohorts.keep:
        cohorts = replace(cohorts, keep=cohorts.scenes[::2], scenes=cohorts.scenes[1::2])
    return cohorts
