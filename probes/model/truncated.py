"""Prompts that were longer than a text encoder reads: counted, where the libraries print each one."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

CUT = "The following part of your input was truncated"
LONG = "Token indices sequence length is longer than"


class Truncations(logging.Filter):
    """Takes the libraries' warnings out of their logs and keeps the texts that weren't read."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self.is_paused = False
        self.handlers: list[logging.Handler] = []

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if said.startswith(CUT) and not self.is_paused:
            self.texts.update(_cut_off(said))
        return not said.startswith((CUT, LONG))

    def sentence(self) -> str | None:
        """What to tell the user; None where every prompt was read to its end."""
        if not self.texts:
            return None
        one = len(self.texts) == 1
        return (
            f"{len(self.texts)} {'prompt is' if one else 'prompts are'} longer than the text encoder reads: "
            f"{'its end was' if one else 'their ends were'} left out."
        )


_counting: ContextVar[Truncations | None] = ContextVar("truncations", default=None)


@contextmanager
def counting() -> Iterator[Truncations]:
    """Counts, inside the block, what models loaded there cut off, instead of printing it."""
    counter = Truncations()
    token = _counting.set(counter)
    try:
        yield counter
    finally:
        _counting.reset(token)
        for handler in counter.handlers:
            handler.removeFilter(counter)


@contextmanager
def uncounted() -> Iterator[None]:
    """Counts nothing inside the block, whose prompts ship and can't be shortened by the user."""
    counter = _counting.get()
    if counter is None:
        yield
        return
    counter.is_paused = True
    try:
        yield
    finally:
        counter.is_paused = False


def watch() -> None:
    """Listens to diffusers and transformers, which are imported by now; nothing outside of `counting`."""
    counter = _counting.get()
    if counter is None:
        return
    for handler in [*logging.getLogger("diffusers").handlers, *logging.getLogger("transformers").handlers]:
        if counter not in handler.filters:
            handler.addFilter(counter)
            counter.handlers.append(handler)


def _cut_off(said: str) -> list[str]:
    """The texts behind the warning's last colon; of a batch also prompts that weren't cut, which leave nothing."""
    _, _, listed = said.partition(": ")
    try:
        texts = ast.literal_eval(listed.strip())
    except (ValueError, SyntaxError):
        return [listed]
    cleared = [str(text).replace("<|endoftext|>", "").strip(" !") for text in texts]
    return [text for text in cleared if text]
