"""Every exception of the shield. A message says what is needed, what was found, and what to do.

``bad_input`` of a class says whose fault it is: what was asked for can't be used as it was given (the command line's
exit status is then 2), or the work failed (1).

ShieldError
|- UnsupportedPipelineError   the pipeline's family isn't in shield/model/families.py
|- WeightsError               a shipped file is missing or altered
|  `- CheckpointError         what was named as a model is none that can be loaded
|- NotCalibratedError         no threshold fits this model and these settings
|- MissingExtraError          a package that an extra of the distribution brings isn't installed
|- MissingSignalError         a detector needs something that the run didn't record
|- TraceError                 the denoiser was called in a way that can't be read
|- BadRequestError            a caller's argument
|- UnknownAttributeError      a name that neither a Shield nor its pipeline has
|- GalleryError               a protected picture or a saved gallery can't be read
|- RegistryError              a registry of protected concepts can't be read
"""


class ShieldError(Exception):
    """Anything the shield refuses. Its text is one sentence for the user."""

    bad_input = False


class UnsupportedPipelineError(ShieldError):
    """The pipeline isn't one whose guidance layout the shield knows."""

    bad_input = True


class WeightsError(ShieldError):
    """A shipped file is missing, altered, or not listed."""


class CheckpointError(WeightsError):
    """A name, folder or file that was given for a model is none that can be loaded."""

    bad_input = True


class NotCalibratedError(ShieldError):
    """A detector has no threshold for this model at these settings."""


class MissingExtraError(ShieldError, ModuleNotFoundError):
    """A package that an extra of the distribution brings isn't installed."""


class MissingSignalError(ShieldError):
    """A detector needs a signal that wasn't recorded, or that this run doesn't have (no guidance, no gap)."""


class TraceError(ShieldError):
    """The denoiser was called in a way that doesn't fit one pipeline call."""


class BadRequestError(ShieldError):
    """An argument that the shield or the pipeline can't use."""

    bad_input = True


class UnknownAttributeError(ShieldError, AttributeError):
    """An attribute that neither a Shield nor the pipeline it wraps has."""


class GalleryError(ShieldError):
    """A protected picture or a saved gallery can't be read."""

    bad_input = True


class RegistryError(ShieldError):
    """A registry of protected concepts can't be read or contradicts itself."""

    bad_input = True


def reason_of(error: Exception) -> str:
    """Why a file can't be read, as part of a sentence that names the file: an OSError without its number and path."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_sentence(error: Exception) -> str:
    """The first sentence of what an exception says, as the end of another."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0].rstrip(".") + "." if lines else f"{type(error).__name__}."


UNKNOWN_TO_HUB = ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError")
NO_NETWORK = ("ConnectError", "ConnectionError", "ConnectTimeout", "ProxyError", "ReadTimeout", "TransportError")


def unreachable(error: BaseException) -> str | None:
    """What a failed connection says, where an exception was caused by one; None for any other."""
    cause = _caused_by(error, NO_NETWORK)
    return None if cause is None else first_line(cause)


def is_unknown_to_hub(error: BaseException) -> bool:
    """Whether an exception was caused by a repository, a revision or a file that the hub doesn't have."""
    return _caused_by(error, UNKNOWN_TO_HUB) is not None


def _caused_by(error: BaseException, kinds: tuple[str, ...]) -> BaseException | None:
    """The exception of one of these classes among an exception's causes.

    Libraries wrap the exceptions of several HTTP clients, none of which needs to be installed: so kinds go by name.
    """
    cause: BaseException | None = error
    while cause is not None:
        if {kind.__name__ for kind in type(cause).__mro__}.intersection(kinds):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
