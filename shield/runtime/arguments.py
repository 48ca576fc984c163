"""What a Shield and a call of it are given, checked before anything runs: one sentence for each mistake."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shield.errors import BadRequestError
from shield.model.assets import stored_thresholds
from shield.model.families import family_of
from shield.protected.concepts import Concept, Concepts, shipped_concepts
from shield.protected.gallery import Gallery
from shield.protected.given import concepts_of, gallery_at, gallery_of
from shield.runtime.policy import Policy, preset
from shield.runtime.stand_in import StandIn
from shield.thresholds import Threshold, load_thresholds
from shield.types import Screen, Verdict

PROMPTS = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")
COUNTS = ("num_images_per_prompt", "num_inference_steps")
SCALES = ("guidance_scale", "true_cfg_scale", "strength", "denoising_end")
SIZES = ("height", "width")
PICTURE = str | Path | Image.Image
OWN_SCHEDULE = ("timesteps", "sigmas")  # given instead of a number of steps


def as_pipeline(given: Any) -> Any:
    """A pipeline whose family the shield knows. Raises BadRequestError, UnsupportedPipelineError."""
    if isinstance(given, str | Path):
        raise BadRequestError(f"A Shield wraps a loaded pipeline; use Shield.from_pretrained({str(given)!r}).")
    if given is None or isinstance(given, type):
        found = "None" if given is None else f"the class {given.__name__}"
        raise BadRequestError(f"A Shield wraps a loaded pipeline; {found} was given. Load one with shield.load(name).")
    if isinstance(given, StandIn):
        raise BadRequestError("This pipeline has a Shield already; wrap its .pipe to give it another one.")
    family_of(given)
    return given


def as_policy(given: Any) -> Policy:
    """A policy, or the preset of that name. Raises BadRequestError."""
    if isinstance(given, str):
        return preset(given)
    return _checked("policy", given, isinstance(given, Policy), "a Policy, or balanced, strict, names or monitor")


def as_gallery(given: Any) -> Gallery | None:
    """A gallery, the one of a folder or of these pictures, or None. Raises BadRequestError, GalleryError."""
    if isinstance(given, str | Path):
        return gallery_at(given)
    if isinstance(given, list | tuple) and given and all(isinstance(one, PICTURE) for one in given):
        return gallery_of(given)
    is_right = given is None or isinstance(given, Gallery)
    return _checked("gallery", given, is_right, "a folder, a list of paths or pictures, a Gallery, or None")


def as_screen(given: Any) -> Screen | None:
    """A screen for concepts, those of a registry's file or of these names, the shipped one for True, none for False, or
    None. Raises BadRequestError, RegistryError.
    """
    if isinstance(given, bool):
        return shipped_concepts() if given else Concepts(())
    if isinstance(given, str | Path):
        if not Path(given).expanduser().is_file():
            raise BadRequestError(f"There is no registry of concepts at {given}; to protect a name, give it in a list.")
        return Concepts.load(Path(given).expanduser())
    if isinstance(given, list | tuple) and given and all(isinstance(one, str | Concept) for one in given):
        return concepts_of(given)
    is_screen = callable(getattr(given, "found", None)) and not isinstance(given, type)
    wanted = "a registry's file, a list of names, a Concepts or a Meaning, True for the shipped names, False or None"
    return _checked("concepts", given, given is None or is_screen, wanted)


def as_thresholds(given: Any) -> list[Threshold]:
    """The thresholds given, those of a folder, or the stored ones. Raises BadRequestError, WeightsError."""
    if given is None:
        return stored_thresholds()
    if isinstance(given, str | Path):
        if not Path(given).is_dir():
            raise BadRequestError(f"There is no folder of thresholds at {given}; make one with `diffshield calibrate`.")
        return load_thresholds(Path(given))
    made = list(given) if isinstance(given, Iterable) else [given]
    wrong = next((one for one in made if not isinstance(one, Threshold)), None)
    return _checked("thresholds", made if wrong is None else wrong, wrong is None, "a folder, or a list of Threshold")


def as_mode(given: Any, modes: Sequence[str]) -> str:
    """Whether thresholds are made where there are none. Raises BadRequestError."""
    return _checked("calibrate", given, isinstance(given, str) and given in modes, " or ".join(map(repr, modes)))


def as_rate(given: Any) -> float:
    """A false-alarm rate. Raises BadRequestError."""
    return float(_checked("fpr", given, _is_number(given) and 0.0 < given < 1.0, "a rate between 0 and 1"))


def as_seconds(given: Any) -> float | None:
    """A time for calibrations or None. Raises BadRequestError."""
    return _checked("seconds", given, given is None or (_is_number(given) and given > 0), "a time above 0, or None")


def as_callback(given: Any) -> Callable[[Verdict], Any] | None:
    """What verdicts are told to, or None. Raises BadRequestError."""
    is_right = given is None or (callable(given) and not isinstance(given, type))
    return _checked("on_verdict", given, is_right, "a function of a Verdict, or None")


def as_prompts(given: Any) -> tuple[str, ...] | None:
    """Benign prompts, or None. Raises BadRequestError."""
    if given is None:
        return None
    is_right = isinstance(given, list | tuple) and bool(given) and _is_text(given)
    return tuple(_checked("prompts", given, is_right, "a list of texts, or None"))


def check_request(request: Mapping[str, Any]) -> None:
    """Raises BadRequestError for an argument of a call, by name, that no pipeline takes."""
    _check_prompt(request)
    for name in PROMPTS[1:]:
        _check(request, name, _is_text, "a text or a list of texts")
    skipped = {"num_inference_steps"} if any(request.get(name) is not None for name in OWN_SCHEDULE) else set()
    for name in COUNTS:
        if name in request and name not in skipped:
            value = request[name]
            _checked(name, value, _is_number(value, Integral) and value > 0, "a whole number from 1 on")
    for name in SCALES:
        _check(request, name, _is_number, "a number")
    for name in SIZES:
        _check(request, name, lambda value: _is_number(value) and value > 0, "a number of pixels from 1 on")
    _check(request, "generator", _is_generator, "a torch.Generator or a list of them")


def _check_prompt(request: Mapping[str, Any]) -> None:
    prompt, embeds = request.get("prompt"), request.get("prompt_embeds")
    if prompt is None:
        if embeds is None:
            raise BadRequestError("A call needs a prompt, or its embeddings as prompt_embeds; neither was given.")
        _checked("prompt_embeds", embeds, _is_embeddings(embeds), "a tensor, or a list of one for each prompt")
    else:
        _checked("prompt", prompt, _is_text(prompt), "a text or a list of texts")


def _check(request: Mapping[str, Any], name: str, is_right: Callable[[Any], bool], wanted: str) -> None:
    value = request.get(name)
    _checked(name, value, value is None or is_right(value), f"{wanted}, or None")


def _checked(name: str, value: Any, is_right: bool, wanted: str) -> Any:
    if not is_right:
        raise BadRequestError(f"{name} is {wanted}; {_shown(value)} was given.")
    return value


def _is_embeddings(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, torch.Tensor) for one in value)
    return isinstance(value, torch.Tensor)


def _is_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def _is_number(value: Any, kind: type = Real) -> bool:
    if isinstance(value, torch.Tensor):
        return kind is Real and value.numel() == 1
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_generator(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, torch.Generator) for one in value)
    return isinstance(value, torch.Generator)


def _shown(value: Any) -> str:
    """A value in a few words: itself where it is short, else its kind."""
    if isinstance(value, list | tuple):
        others = sorted({type(one).__name__ for one in value})
        return f"a {type(value).__name__} of {', '.join(others)}" if value else f"an empty {type(value).__name__}"
    said = repr(value) if value is None or isinstance(value, str | Real) else ""
    return said if 0 < len(said) <= 40 else f"a value of type {type(value).__name__}"
