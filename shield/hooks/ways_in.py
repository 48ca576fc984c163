"""What comes into a call beside text and numbers, by any argument: pictures, latents, embeddings, learned words.

An argument that holds tensors or pictures is a way in, whatever its name; only those that somebody looks at (pictures,
where there is a gallery; latents to start from) aren't told here. So is a word that the tokenizer was taught, because
nobody can read what it means, and an attention processor of somebody else's, which can add anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from shield.model.families import family_of
from shield.model.prediction import prediction_type, unreadable
from shield.model.walk import modules_in
from shield.reasons import Reason

PICTURES = ("image", "mask_image", "control_image", "ip_adapter_image", "negative_ip_adapter_image")
TEXTS = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")
ELSEWHERE = frozenset({"self", "generator", "latents", "timesteps", "sigmas"})  # numbers, or looked at elsewhere
WHOLE = 0.9  # of the most noise there is: what counts as a start from noise


def given(request: Mapping[str, Any], has_gallery: bool) -> list[Reason]:
    """A reason for each kind of thing that came in and that nobody looks at."""
    held = [name for name, value in _named(request) if name not in ELSEWHERE and _holds_data(value)]
    embeds = [name for name in held if name.endswith("_embeds") and "image" not in name]
    pictures = [name for name in held if name in PICTURES]
    others = [name for name in held if name not in (*embeds, *pictures)]
    told = [Reason("prompt_embeddings")] if request.get("prompt") is None and embeds else []
    beside = [name for name in embeds if not told or name.startswith("negative_")]
    told += [Reason("embeddings", detail=", ".join(beside))] if beside else []
    if pictures and not has_gallery:
        told.append(Reason("no_gallery", detail=", ".join(pictures)))
    return told + [Reason("numbers", detail=name) for name in others]


def gives_picture(request: Mapping[str, Any]) -> bool:
    """Whether a picture came in that the finished one is to be like."""
    return any(value is not None for name, value in request.items() if name in PICTURES or "ip_adapter" in name)


def starts_low(request: Mapping[str, Any], scheduler: Any) -> bool:
    """Whether the call starts under less than all the noise there is, where latents that are given show through."""
    if request.get("denoising_start") or float(request.get("strength") or 1.0) < 1.0:
        return True
    timesteps, sigmas = request.get("timesteps"), request.get("sigmas")
    if timesteps is not None:
        return max(float(t) for t in timesteps) < WHOLE * scheduler.config.num_train_timesteps
    return sigmas is not None and max(float(s) for s in sigmas) < WHOLE * _most(scheduler)


def learned_words(pipe: Any, request: Mapping[str, Any]) -> dict[int, Reason]:
    """Row of the prompts -> a reason with the words in its texts that a tokenizer of this pipeline was taught."""
    tokenizers = [taught for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if (taught := _taught(pipe, name))]
    if not tokenizers:
        return {}
    prompt = request.get("prompt")
    rows = range(len(prompt) if isinstance(prompt, list | tuple) else 1)
    words = {row: _words(_texts(request, row), tokenizers) for row in rows}
    return {row: Reason("learned_words", detail=", ".join(found)) for row, found in words.items() if found}


def foreign_processors(pipe: Any) -> list[Reason]:
    """A reason for each class of attention processor that isn't one of diffusers' own."""
    family = family_of(pipe)
    parts = [getattr(pipe, name, None) for name in (family.denoiser, family.companion or "")]
    modules = modules_in(*(part for part in parts if isinstance(part, nn.Module)))
    classes = {type(processor) for m in modules if (processor := vars(m).get("processor")) is not None}
    names = sorted(c.__qualname__ for c in classes if c.__module__.split(".")[0] != "diffusers")
    return [Reason("foreign_processor", detail=name) for name in names]


def _named(request: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments by name, those of `**kwargs` and of attention among them."""
    for name, value in request.items():
        yield from value.items() if isinstance(value, Mapping) else ((name, value),)


def _holds_data(value: Any) -> bool:
    """Tensors and pictures, and mappings within attention's arguments (boxes, masks), whatever they hold."""
    if isinstance(value, list | tuple):
        return any(_holds_data(part) for part in value)
    return isinstance(value, Tensor | np.ndarray | Image.Image | Mapping)


def _most(scheduler: Any) -> float:
    """The largest sigma the model was trained at."""
    if unreadable(scheduler) or prediction_type(scheduler) == "flow":
        return 1.0
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return float(scheduler.config.get("sigma_max", 1.0))
    return float(((1.0 - alphas[-1]) / alphas[-1].clamp_min(1e-8)).sqrt())  # zero terminal signal has no largest


def _taught(pipe: Any, name: str) -> tuple[Any, dict[int, str]] | None:
    """A tokenizer and the tokens it got after its vocabulary was made."""
    tokenizer = getattr(pipe, name, None)
    if tokenizer is None:
        return None
    added, special = getattr(tokenizer, "added_tokens_encoder", {}), frozenset(tokenizer.all_special_ids)
    words = {number: word for word, number in added.items() if number not in special}
    return (tokenizer, words) if words else None


def _texts(request: Mapping[str, Any], row: int) -> list[str]:
    texts = [request.get(name) for name in TEXTS]
    rows = [text[row : row + 1] if isinstance(text, list | tuple) else [text] for text in texts]
    return [text for some in rows for text in some if isinstance(text, str) and text]


def _words(texts: Iterable[str], tokenizers: Iterable[tuple[Any, dict[int, str]]]) -> list[str]:
    """Told by the token, as the text encoder is given it: a tokenizer may fold letters first."""
    found = [
        words[number]
        for tokenizer, words in tokenizers
        for number in (n for text in texts for n in tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        if number in words
    ]
    return list(dict.fromkeys(found))
