"""Which weights a memory is in, and the model without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes import pruners
from probes.api.call import Call
from probes.audit.audit import as_usual
from probes.audit.plan import FULL
from probes.audit.request import read_mask
from probes.inputs.given import Prompts
from probes.localizers import FFNSubspace
from probes.model.loading import subject_of
from probes.types import Localizer, Pruner, UnitMask
from probes.verbs.localize import OPTIONS, localizer_of
from probes.verbs.localize import localize as run_localize
from shield.errors import BadRequestError


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
    call = Call.on(model, out, device, resume, steps, guidance_scale)
    file = call.file(prompts)
    sampling = call.sampling
    own: dict[str, Any] = {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    if unknown := options.keys() - OPTIONS.keys():
        raise BadRequestError(f"There is no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}.")
    localizer: Any
    if not isinstance(method, str):
        localizer = replace(method, **options) if options else method  # type: ignore[type-var]
    elif method == FFNSubspace.name and base is None:
        usual = as_usual(FULL, call.checkpoint).localizer.sampled(**own)
        try:
            localizer = replace(usual, **options)
        except ValueError as error:
            raise BadRequestError(str(error)) from error
    else:
        against = base if isinstance(base, str) else call.file(base, "base")
        named = None if against is None else str(against)
        localizer = localizer_of(method, named, {**OPTIONS, **own, **options}, file, call.checkpoint, limit=limit)
    return run_localize(
        file,
        call.folder,
        localizer=localizer,
        model=call.subject.name,
        pipe=call.subject.pipe,
        limit=limit,
        seed=seed,
        **call.options,
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
