"""What can go wrong in the probes because of an input. Each message says what is needed, what was found, what to do.

ProbeError
├── MaskError         a mask that is missing, damaged, or for another model
├── PromptFileError   a prompt file that can't be read as prompts
├── UnsupportedError  a method that doesn't know this family of models
├── TensorFileError   embeddings, norms or weights that can't be written or read
├── MemoryFullError   something that doesn't fit in memory and can't be cut smaller
├── EarlyExitError    a sequential test that can't be calibrated
├── EngineError       workers that can't be started or are lost again and again
│   └── EngineChoiceError  an engine that can't do what was asked of it
├── ShardError        shards that don't belong together or aren't complete
├── TrapError         traps that can't be made, or a folder of traps that is damaged
├── AuditError        an audit that can't start or continue as asked
│   └── DivergedError      a training whose loss is no number
└── RunError          a run folder that can't be made, read or continued
    └── RunChoiceError     the folder or option given can't be this run's
"""

from __future__ import annotations

from shield.errors import ShieldError


class ProbeError(ShieldError):
    """Base of the errors below."""


class MaskError(ProbeError):
    """A mask is missing, damaged, or for another model."""

    bad_input = True


class PromptFileError(ProbeError):
    """A prompt file is missing, empty, in an unknown format, or has no column of prompts."""

    bad_input = True


class UnsupportedError(ProbeError):
    """A method doesn't know how to run on this family of models."""

    bad_input = True


class TensorFileError(ProbeError):
    """A file of embeddings, norms or weights can't be written, or is missing or damaged."""


class MemoryFullError(ProbeError):
    """A single item doesn't fit in memory, so that no smaller batch helps."""


class EarlyExitError(ProbeError):
    """A sequential test can't be calibrated with this pilot, or has no threshold to decide by."""

    bad_input = True


class EngineError(ProbeError):
    """Workers can't be started, or are lost again and again."""


class ShardError(ProbeError):
    """Shards of a scan don't belong together, or some are missing or incomplete."""

    bad_input = True


class TrapError(ProbeError):
    """Traps can't be made as asked, or a folder of traps is missing, incomplete or altered."""

    bad_input = True


class AuditError(ProbeError):
    """An audit can't start, or can't continue with what its folder holds."""

    bad_input = True


class RunError(ProbeError):
    """A run folder can't be made, read or continued."""


class RunChoiceError(RunError):
    """The folder or option that was given can't be this run's: it holds another run, or none."""

    bad_input = True


class EngineChoiceError(EngineError):
    """An engine that can't do what was asked of it."""

    bad_input = True


class DivergedError(AuditError):
    """A training whose loss is no number."""

    bad_input = False
