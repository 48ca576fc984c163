"""A call of a pipeline as a Shield reads it: its arguments by name, and the images that it asks for."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from shield.errors import BadRequestError
from shield.runtime.arguments import check_request
from shield.runtime.call import ImageState
from shield.types import Screen


def bound_arguments(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline call's arguments by name, defaults included, checked; and those that were given, by name.

    Raises BadRequestError.
    """
    signature = inspect.signature(type(pipe).__call__)
    try:
        bound = signature.bind(pipe, *args, **kwargs)
    except TypeError as error:
        raise BadRequestError(f"{type(pipe).__name__} can't be called like this: {error}.") from None
    names = list(signature.parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    bound.apply_defaults()
    check_request(bound.arguments)
    return dict(bound.arguments), given


def requested_images(request: Mapping[str, Any], screen: Screen | None) -> list[ImageState]:
    """One ImageState per image the call makes, in the pipeline's order."""
    prompt = request.get("prompt")
    prompts: list[str | None] = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if prompt is None:
        prompts = [None] * len(request["prompt_embeds"])
    prompts = [_joined(text, row, request) for row, text in enumerate(prompts)]
    copies = request.get("num_images_per_prompt", 1)
    texts = [p for p in prompts for _ in range(copies)]
    mentions = {p: screen.found(p) for p in set(prompts) if p} if screen else {}
    return [ImageState(row, text, mentions.get(text, ()) if text else ()) for row, text in enumerate(texts)]


def _joined(prompt: str | None, row: int, request: Mapping[str, Any]) -> str | None:
    """A prompt with those that other text encoders are given instead of it."""
    if prompt is None:
        return None
    others = (request.get("prompt_2"), request.get("prompt_3"))
    texts = [other[row : row + 1] if isinstance(other, list | tuple) else [other] for other in others]
    return ", ".join(dict.fromkeys([prompt, *(text for some in texts for text in some if text)]))


def says_something(negative: Any) -> bool:
    return any(negative) if isinstance(negative, list | tuple) else bool(negative)
