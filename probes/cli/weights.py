"""diffshield localize | prune | attack | locality | harden: parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from probes.cli.options import (
    Column,
    Device,
    Guidance,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    SearchBatch,
    Twin,
    listed,
    numbers,
    printed,
)

Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default the testbed's own, else 25.")]
Openclip = Annotated[Path | None, typer.Option(help="OpenCLIP folder that measures alignment.")]
PruneFirst = Annotated[Path | None, typer.Option(help="Prune this first: a mask, or the run folder of localize.")]
Nonmembers = Annotated[Path | None, typer.Option(help="Matched prompts and pictures, never trained on.")]
ThenTrain = Annotated[
    str | None,
    typer.Option(
        help="Then fine-tune the edited model on these ordinary prompts (a file, pictures optional), or on 'kept', "
        "those that hardening keeps, and ask again: do works come back by themselves?"
    ),
]
ThenUpdates = Annotated[str, typer.Option(help="Comma-separated numbers of such updates to ask again after.")]
ThenAttack = Annotated[int, typer.Option(min=0, help="Steps of the attack then; 0 asks with captions alone.")]
Works = Annotated[
    Path | None,
    typer.Option(
        "--prompts", help="Works to judge by, with reference pictures; by default the testbed's heldout ones."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds these verbs to the command line."""
    for verb in (localize, prune, attack, locality, harden):
        app.command()(verb)


def localize(
    out: Out,
    prompts: Annotated[
        Path | None, typer.Argument(help="Memorized prompts; without them the testbed's dev works.")
    ] = None,
    model: Model = "testbed",
    method: Annotated[
        str, typer.Option(help="ffn_subspace, value_neurons, curvature (of ordinary prompts) or random_mask.")
    ] = "ffn_subspace",
    k: Annotated[float, typer.Option(min=0, max=1, help="Share of each row's weights, or of all at random.")] = 0.05,
    tau: Annotated[
        int | None, typer.Option(min=1, help="How many first denoising steps are watched; 6, or all of fewer.")
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--standard", help="Divide each token's activations by their norm (as published), or not."
        ),
    ] = True,
    conditional_only: Annotated[
        bool, typer.Option("--conditional-only", help="Leave the unconditional half out.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            help="Compare with: null, paraphrase (the same words in another order), "
            "nonmembers or scenes (testbed), or a prompt file. By default null; "
            "for value_neurons nonmembers."
        ),
    ] = None,
    unit: Annotated[str, typer.Option(help="weight or neuron.")] = "weight",
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(help="Decides the noise that all prompts start from.")] = 7,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Locate the weights behind prompts: a mask, how dense it is, how much the masks of other prompts overlap.

    Example: diffshield localize --model testbed --out runs/mask
    """
    from probes.testbed.checkpoint import Checkpoint
    from probes.verbs.localize import format_mask, localizer_of
    from probes.verbs.localize import localize as locate

    sampling = _sampling(model, steps, guidance)
    options = {
        "k": k,
        "tau": tau,
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "normalize_tokens": normalize,
        "conditional_only": conditional_only,
        "unit": unit,
    }
    localizer = localizer_of(method, base, options, prompts, Checkpoint.of(model), column, limit)
    done = locate(
        prompts,
        out,
        localizer=localizer,
        model=model,
        column=column,
        limit=limit,
        seed=seed,
        device=device,
        resume=resume,
    )
    found = {"run": str(done.folder), "mask": str(done.file), "summary": done.summary}
    printed(found, as_json, "\n".join([*format_mask(done.summary), str(done.file)]))


def prune(
    mask: Annotated[Path, typer.Argument(help="A mask, or the run folder of localize.")],
    out: Out,
    model: Model = "testbed",
    prompts: Works = None,
    benign: Annotated[Path | None, typer.Option(help="Ordinary prompts; by default the testbed's scenes.")] = None,
    openclip: Openclip = None,
    sweep: Annotated[str, typer.Option(help="Comma-separated k: draws the trade-off curve.")] = "",
    then_train: ThenTrain = None,
    then_updates: ThenUpdates = "0,50,200",
    then_attack: ThenAttack = 50,
    save: Annotated[Path | None, typer.Option(help="Write the pruned model as a diffusers checkpoint.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 4,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Compare a model with its pruned self: copies, scores, alignment and drift; optionally save it.

    Example: diffshield prune runs/mask --model testbed --out runs/pruned
    """
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.verbs.prune import PRUNE, format_pruning
    from probes.verbs.prune import prune as compare

    request = AuditRequest(
        model, prompts, benign=benign, column=column, limit=limit, openclip=openclip, device=device, say=_say
    )
    plan = replace(PRUNE, sampling=_sampling(model, steps, guidance), picture_seeds=tuple(range(9000, 9000 + seeds)))
    then = _then(model, then_train, then_updates, then_attack)
    done = compare(mask, out, request, plan=plan, ks=numbers(sweep, float), then=then, save=save, resume=resume)
    _reported(done, as_json, format_pruning(done.summary))


def attack(
    out: Out,
    mask: PruneFirst = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Nonmembers = None,
    twin: Twin = None,
    method: Annotated[
        str,
        typer.Option(
            "--attack",
            help="adversarial_embedding, prompt_search (words instead of an "
            "embedding), paraphrase (the caption, distorted), or without text: completion (of the noised work), "
            "inpainting (of the masked work), noise (alone).",
        ),
    ] = "adversarial_embedding",
    at: Annotated[
        str,
        typer.Option(
            help="Comma-separated step counts to judge at; by default 0,1,10,25,50,150, and "
            "levels 0,1,2,3,4 of a paraphrase; without text percentages, 20,40,60,80 of completion."
        ),
    ] = "",
    init: Annotated[str, typer.Option(help="Start from the caption, noise, or other (--init-prompt).")] = "caption",
    init_prompt: Annotated[str | None, typer.Option(help="The other prompt to start from.")] = None,
    batch: SearchBatch = 8,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Hold less memory: compute activations twice (embeddings alone).")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each embedding.")] = 2,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Try to bring works back, and the same on non-members and the clean twin: the gap is the verdict.

    Example: diffshield attack --mask runs/mask --model testbed --out runs/attacked --at 0,10,25
    """
    from dataclasses import replace

    from probes.attacks import AdversarialEmbedding
    from probes.audit.request import AuditRequest
    from probes.verbs.attack import ATTACK, format_attack
    from probes.verbs.attack import attack as bring_back

    request = AuditRequest(model, prompts, nonmembers, column=column, limit=limit, twin=twin, device=device, say=_say)
    plan = replace(
        ATTACK,
        sampling=_sampling(model, steps, guidance),
        picture_seeds=tuple(range(9000, 9000 + seeds)),
        attack=AdversarialEmbedding(checkpointing=checkpointing),
    )
    done = bring_back(
        out,
        request,
        mask=mask,
        steps=numbers(at, int),
        init=init,
        init_prompt=init_prompt,
        batch=batch,
        plan=plan,
        method=method,
        resume=resume,
    )
    _reported(done, as_json, format_attack(done.summary))


def locality(
    out: Out,
    mask: PruneFirst = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Nonmembers = None,
    works: Annotated[int, typer.Option(min=1, help="Works that are searched.")] = 4,
    starts: Annotated[int, typer.Option(min=2, help="Searches for each work, from noise.")] = 8,
    budget: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 50,
    batch: SearchBatch = 8,
    masks: Annotated[str, typer.Option(help="Comma-separated: ffn_subspace, value_neurons.")] = "ffn_subspace",
    k: Annotated[float, typer.Option(min=0, max=1, help="Share of each row's weights in a subspace mask.")] = 0.05,
    steps: Steps = None,
    guidance: Guidance = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Is a memory in one place? Compares embeddings that bring a work back, their activations and their masks.

    Example: diffshield locality --model testbed --out runs/locality --works 2
    """
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.verbs.locality import LOCALITY, format_locality
    from probes.verbs.locality import locality as analyze

    request = AuditRequest(model, prompts, nonmembers, column=column, limit=limit, device=device, say=_say)
    plan = replace(
        LOCALITY,
        sampling=_sampling(model, steps, guidance),
        localizer=replace(LOCALITY.localizer, k=k),
        attack=replace(LOCALITY.attack, steps=budget, batch=batch),
    )
    done = analyze(out, request, mask=mask, works=works, starts=starts, masks=listed(masks), plan=plan, resume=resume)
    _reported(done, as_json, format_locality(done.summary))


def harden(
    out: Out,
    mask: Annotated[
        Path | None,
        typer.Option(help="Surrogates come from the model pruned by this: a mask, or the run folder of localize."),
    ] = None,
    model: Model = "testbed",
    prompts: Works = None,
    nonmembers: Nonmembers = None,
    benign: Annotated[
        Path | None,
        typer.Option(help="Ordinary prompts: half are kept, half are judged by; by default the testbed's scenes."),
    ] = None,
    twin: Twin = None,
    method: Annotated[
        str, typer.Option(help="adversarial_fine_tuning, or a baseline: caption_fine_tuning, negative_guidance (ESD).")
    ] = "adversarial_fine_tuning",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the works, unless dev works end it early.")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Optimizer steps with each set of triggers.")] = 10,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by default 2e-4 for the testbed, else 1e-5.")] = None,
    together: Annotated[int, typer.Option(min=1, help="Works in one optimizer step.")] = 4,
    rank: Annotated[int, typer.Option(min=0, help="Train low-rank adapters of this rank; 0 trains the weights.")] = 0,
    works: Annotated[int, typer.Option(min=1, help="At most so many works are removed and judged.")] = 16,
    dev: Annotated[int, typer.Option(min=0, help="Further works that decide when to stop; 0 trains to the end.")] = 4,
    keep: Annotated[int, typer.Option(min=1, help="Ordinary prompts whose pictures are kept.")] = 64,
    at: Annotated[str, typer.Option(help="Comma-separated step counts to attack again at.")] = "0,1,10,50",
    then_train: ThenTrain = None,
    then_updates: ThenUpdates = "0,50,200",
    then_attack: ThenAttack = 50,
    save: Annotated[Path | None, typer.Option(help="Write the hardened model as a diffusers checkpoint.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each prompt and embedding.")] = 2,
    steps: Steps = None,
    guidance: Guidance = None,
    openclip: Openclip = None,
    column: Column = None,
    limit: Limit = None,
    device: Device = "auto",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train memories out of the weights, then attack again beside non-members and the clean twin.

    Example: diffshield harden --mask runs/mask --model testbed --out runs/hardened --save hardened
    """
    from dataclasses import replace

    from probes.audit.request import AuditRequest
    from probes.testbed.checkpoint import Checkpoint
    from probes.verbs.harden import HARDEN, format_hardening, hardening, usual_lr
    from probes.verbs.harden import harden as remove

    request = AuditRequest(model, prompts, nonmembers, benign, column, limit, twin, openclip, device, say=_say)
    if lr is None:
        lr = usual_lr(Checkpoint.of(model))
    plan = replace(
        HARDEN,
        sampling=_sampling(model, steps, guidance),
        picture_seeds=tuple(range(9000, 9000 + seeds)),
        sizes=replace(HARDEN.sizes, members=works),
        hardening=hardening(
            method, members=works, dev=dev, keep=keep, epochs=epochs, updates=updates, lr=lr, batch=together, rank=rank
        ),
    )
    then = _then(model, then_train, then_updates, then_attack)
    done = remove(out, request, mask=mask, steps=numbers(at, int), plan=plan, then=then, save=save, resume=resume)
    _reported(done, as_json, format_hardening(done.summary))


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _reported(done: Any, as_json: bool, lines: list[str]) -> None:
    """The result of a verb whose run folder has a report."""
    from probes.report.html import sentences_of

    found = {"run": str(done.folder), "report": str(done.report), "summary": done.summary}
    printed(found, as_json, "\n".join([*sentences_of(done.folder), *lines, "", f"Report: {done.report}"]))


def _then(model: str, source: str | None, updates: str, attack_steps: int) -> Any:
    from probes.audit.resurgence import KEPT, Resurgence
    from probes.testbed.checkpoint import Checkpoint
    from probes.verbs.harden import usual_lr

    if source is None:
        return None
    lr = usual_lr(Checkpoint.of(model))
    return Resurgence(source if source == KEPT else Path(source), tuple(numbers(updates, int)), attack_steps, lr)


def _sampling(model: str, steps: int | None, guidance: float | None) -> Any:
    from probes.drawing.draw import Sampling
    from probes.testbed.checkpoint import Checkpoint

    return Sampling(*Checkpoint.of(model).sampling(steps, guidance))
