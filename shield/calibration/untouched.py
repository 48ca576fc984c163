"""A pipeline that is called in between, and is as it was afterwards: its next picture comes out bit-equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from shield.runtime.retry import kept_noise


@contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """After the block the scheduler, the pipeline's own attributes and torch's random numbers are as before it.

    Within it the pipeline shows no progress bar and warns of nothing (of prompts that are cut at 77 tokens).
    """
    restore = kept_noise(None)
    verbosities = [(log, log.get_verbosity()) for log in (diffusers_logging, transformers_logging)]
    held = [(one, dict(vars(one))) for one in (pipe, pipe.scheduler)]
    pipe.set_progress_bar_config(disable=True)
    for log, _ in verbosities:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, verbosity in verbosities:
            log.set_verbosity(verbosity)
        for one, attributes in held:
            vars(one).clear()
            vars(one).update(attributes)
        restore()
        pipe.maybe_free_model_hooks()
