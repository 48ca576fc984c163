"""What a verb's error is to its user: a sentence and an exit status, or a bug of ours and so a traceback.

Status 2 says that what was given can't be used: an option's value, a file, a model of another kind. Status 1 says that
the work failed: a threshold that is missing, a full disk, a pipeline that breaks off.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from shield.errors import ShieldError, first_sentence

FAILED, USAGE, INTERRUPTED = 1, 2, 130
# What a full or protected disk says; any other OSError is a bug of ours.
_DISK = (
    errno.ENOSPC,
    errno.EACCES,
    errno.EEXIST,
    errno.EPERM,
    errno.EROFS,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.ENAMETOOLONG,
)
_OURS = tuple(Path(__file__).parents[2] / room for room in ("shield", "probes", "ui"))


def failure_of(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit status of an error that a user can cause; None for a bug."""
    if isinstance(error, ShieldError):
        return str(error), USAGE if error.bad_input else FAILED
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Interrupted.", INTERRUPTED
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{error.filename or 'The disk'}: {error.strerror}.", FAILED
    if isinstance(error, ValueError) and _is_refusal(error):
        return f"The pipeline refuses what it was asked for: {first_sentence(error)}", USAGE
    if isinstance(error, Exception) and (place := _broken_inside(error)):
        return (
            f"The pipeline breaks off by itself in {place} ({type(error).__name__}): {first_sentence(error)} See "
            "whether diffusers alone draws this prompt with this checkpoint, in the pipeline's usual size."
        ), FAILED
    return None


def _is_refusal(error: ValueError) -> bool:
    """Whether a pipeline or scheduler of diffusers said no to a call's arguments: a size, a number of steps."""
    places = _places(error)
    return bool(places) and _is_of_diffusers(places[-1], "pipelines", "schedulers")


def _broken_inside(error: Exception) -> str | None:
    """File and line where a pipeline of diffusers broke off; None where code of ours ran inside of its call."""
    places = _places(error)
    called = next((n for n, place in enumerate(places) if _is_of_diffusers(place, "pipelines")), None)
    if called is None or any(place.is_relative_to(room) for place in places[called:] for room in _OURS):
        return None
    return f"{places[-1].name}, line {traceback.extract_tb(error.__traceback__)[-1].lineno}"


def _places(error: BaseException) -> list[Path]:
    return [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]


def _is_of_diffusers(place: Path, *rooms: str) -> bool:
    return "diffusers" in place.parts and not set(place.parts).isdisjoint(rooms)
