"""The nouns of the shield, and the letters of every shape in it.

Shapes: B images, C latent channels, H and W latent height and width, T text tokens, D text width. Recorded tensors are
(B, C, ...) with channels first whatever the denoiser uses, float32, on the CPU.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from shield.errors import MissingSignalError
from shield.model.conditioning import Conditioning
from shield.model.prediction import converted
from shield.reasons import Reason

STATUSES = ("passed", "mitigated", "blocked")


@dataclass(frozen=True)
class Step:
    """What one denoising step showed. `noise_cond` and `noise_uncond` are the denoiser's outputs as it predicts them
    (`prediction`: epsilon, v_prediction, flow or sample); `latents` is its input x_t = signal * x0 + noise * eps.
    `attention` has the conditional rows' shares of attention per text token, (B, T), by module path, and by ENDING
    and path the share that the last text token has at each of P places, (B, P). At the first step, where asked for:
    `late` is what the denoiser says about the same latents at a timestep near the end, `shifted` about latents that
    were moved along the gap, `redrawn` about other noises (shield/hooks/extra_predictions.py).
    """

    index: int
    timestep: float
    signal: float
    noise: float
    prediction: str
    latents: Tensor | None = None
    noise_cond: Tensor | None = None
    noise_uncond: Tensor | None = None
    attention: dict[str, Tensor] = field(default_factory=dict)
    late: "Step | None" = None
    shifted: "Step | None" = None
    redrawn: tuple["Step", ...] = ()

    def signal_named(self, name: str) -> Tensor:
        """The recorded signal; raises MissingSignalError when this step doesn't hold it."""
        value = getattr(self, name)
        if value is None:
            off = "guidance is off, so nothing was predicted without the prompt; see Policy(extra_uncond=True)"
            hint = off if name == "noise_uncond" else "name it in `needs`"
            raise MissingSignalError(f"Step {self.index} holds no {name}: {hint}.")
        return value

    def gap(self, quantity: str = "x0") -> Tensor:
        """Conditional minus unconditional prediction as `quantity` (x0, epsilon or v), (B, C, ...)."""
        difference = self.signal_named("noise_cond") - self.signal_named("noise_uncond")
        return converted(difference, self.prediction, quantity, self.signal, self.noise)

    def predicted(self, which: str, quantity: str = "x0") -> Tensor:
        """The conditional (`which="cond"`) or unconditional ("uncond") prediction as `quantity`, (B, C, ...)."""
        prediction = self.signal_named(f"noise_{which}")
        return converted(prediction, self.prediction, quantity, self.signal, self.noise, self.signal_named("latents"))

    def attended(self, layer: str) -> Tensor:
        """(B, T) shares of attention in this layer; raises MissingSignalError."""
        if layer not in self.attention:
            raise MissingSignalError(f"Step {self.index} holds no attention of {layer}: name it in `needs`.")
        return self.attention[layer]

    def asked_late(self) -> "Step":
        """The `late` predictions; raises MissingSignalError."""
        if self.late is None:
            raise MissingSignalError(f"Step {self.index} holds no late predictions: name 'late' in `needs`.")
        return self.late

    def asked_shifted(self) -> "Step":
        """The `shifted` predictions; raises MissingSignalError."""
        if self.shifted is None:
            raise MissingSignalError(
                f"Step {self.index} holds no shifted predictions: guidance is off, or 'shifted' isn't in `needs`."
            )
        return self.shifted

    def asked_redrawn(self, count: int) -> tuple["Step", ...]:
        """The first `count` of the `redrawn` predictions; raises MissingSignalError."""
        if len(self.redrawn) < count:
            raise MissingSignalError(
                f"Step {self.index} holds {len(self.redrawn)} redrawn predictions: name 'redrawn:{count}' in `needs`."
            )
        return self.redrawn[:count]

    def rows(self, indexes: Sequence[int]) -> "Step":
        """The same step with only these images."""
        index = torch.as_tensor(list(indexes), dtype=torch.long)
        latents, cond, uncond = (None if t is None else t[index] for t in self._tensors())
        attention = {layer: shares[index] for layer, shares in self.attention.items()}
        late, shifted = (None if one is None else one.rows(indexes) for one in (self.late, self.shifted))
        redrawn = tuple(other.rows(indexes) for other in self.redrawn)
        return replace(
            self,
            latents=latents,
            noise_cond=cond,
            noise_uncond=uncond,
            attention=attention,
            late=late,
            shifted=shifted,
            redrawn=redrawn,
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.latents, self.noise_cond, self.noise_uncond


@dataclass
class Trace:
    """The recorded steps of one pipeline call, in order, and its micro-conditioning (SDXL's sizes and crops)."""

    steps: list[Step] = field(default_factory=list)
    micro_conditioning: tuple[float, ...] = ()

    @property
    def batch(self) -> int:
        """Number of images B; 0 before the first step."""
        held = [t for step in self.steps[:1] for t in (*step._tensors(), *step.attention.values()) if t is not None]
        return len(held[0]) if held else 0

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents, (C, ...)."""
        held = [t for step in self.steps[:1] for t in step._tensors() if t is not None]
        return tuple(held[0].shape[1:]) if held else ()

    def first(self, k: int) -> list[Step]:
        """The first `k` steps; raises MissingSignalError when fewer were recorded."""
        if len(self.steps) < k or k < 1:
            raise MissingSignalError(f"The first {k} steps are needed; {len(self.steps)} were recorded.")
        return self.steps[:k]

    def rows(self, indexes: Sequence[int]) -> "Trace":
        """The same trace with only these images, in this order."""
        return Trace([step.rows(indexes) for step in self.steps], self.micro_conditioning)


@runtime_checkable
class Detector(Protocol):
    """Scores a trace. A frozen dataclass whose fields are its options. No state, no thresholds, no hooks."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]:
        """What to record: names of shield/signals.py."""

    @property
    def first_k(self) -> int:
        """How many steps from the first on it reads."""

    def score(self, trace: Trace) -> Tensor:
        """(B,) float32 on the CPU; larger means more likely memorized. Raises MissingSignalError."""


@dataclass(frozen=True)
class Score:
    """One detector's number for one image. `threshold` None: nobody calibrated it. `step` counts from 0. `nearest`: the
    work or concept that a preview was found most like. `file`: where the threshold was read. `fpr`: the share of benign
    prompts that exceeds the threshold, at most. `why`: what kept the detector from judging.
    """

    detector: str
    value: float
    threshold: float | None
    step: int
    nearest: str | None = None
    file: str | None = None
    fpr: float | None = None
    why: str | None = None

    @property
    def flagged(self) -> bool | None:
        """True, False, or None when there is no threshold or the value is no number: couldn't judge."""
        if self.threshold is None or self.value != self.value:
            return None
        return self.value > self.threshold


@dataclass(frozen=True)
class WordWeight:
    """A word at characters start..end of the prompt and its share (0..1) of the prompt's pull."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Nearest:
    """The nearest protected picture of a finished picture. `score` grows with similarity; `copied` above `threshold`,
    `near` between `near_threshold` and that. `descriptor` found it, by `metric`. `region`: where in the finished
    picture the protected one lies, as four corners in shares of width and height, clockwise from the protected
    picture's upper left one, outside of 0 to 1 where it is cut; None where it is neither copied nor near.
    """

    work: str
    metric: str
    score: float
    threshold: float
    copied: bool
    near: bool = False
    descriptor: str = "pixels"
    region: tuple[tuple[float, float], ...] | None = None
    near_threshold: float = 1.0

    @property
    def closeness(self) -> str:
        """`copy`, `near` or `none`."""
        return "copy" if self.copied else "near" if self.near else "none"


@dataclass(frozen=True)
class Verdict:
    """What the shield decided for one image, and why. `status` is one of STATUSES; `scored` False: couldn't judge."""

    index: int
    prompt: str | None
    status: str
    scores: tuple[Score, ...] = ()
    reasons: tuple[Reason, ...] = ()
    mitigation: str | None = None
    rewritten_prompt: str | None = None
    concepts: tuple[str, ...] = ()
    nearest: Nearest | None = None
    scored: bool = True
    token_weights: tuple[WordWeight, ...] = ()
    extra_calls: int = 0
    milliseconds: float = 0.0

    @property
    def flagged(self) -> bool:
        """Whether anything was found: a detector, a protected concept, or a given or finished picture that is a copy.

        It doesn't depend on what the policy did about it, so under `monitor` a flagged image has the status "passed".
        """
        copied = self.nearest is not None and self.nearest.copied
        found = copied or bool(self.concepts) or any(one.flagged for one in self.scores)
        return self.status != "passed" or found or any(reason.is_flag for reason in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON types, with `flagged`, also of each score, and each reason's sentence as `text`; a
        number that is none is None.
        """
        about = {**asdict(self), "flagged": self.flagged}
        about["scores"] = [{**asdict(one), "flagged": one.flagged} for one in self.scores]
        about["reasons"] = [reason.to_dict() for reason in self.reasons]
        return _finite(about)

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class MitigationContext:
    """One flagged image at one denoising step, as mitigations see it. Tensors are (1, ...), in the pipeline's dtype.

    `original`, `safe` and `null` are the request's conditioning, the accepted rewrite's (None without one), and the
    empty prompt's. `rerun(conditioning)` predicts this image's noise under another conditioning, and with a second
    argument from other latents: one extra denoiser call. `memory` is the mitigation's own between the steps of one
    image. `latents` are the denoiser's input and `move(latents)` has the picture go on from others instead. `length`:
    how many of the T tokens the prompt fills (the rewritten one where there is `safe`), begin and end included; None
    where nobody knows. `likeness(prediction)`:
    the correlation, as a scalar with a gradient, with the nearest protected picture, and its work. `mentions`: the
    protected concepts found in the prompt. `encode(texts)`: their conditioning, one row each.
    """

    step: int
    steps: int
    guidance_scale: float
    noise_cond: Tensor
    noise_uncond: Tensor | None
    original: Conditioning
    safe: Conditioning | None
    null: Conditioning
    rerun: Callable[..., Tensor]
    memory: dict[str, Any] = field(default_factory=dict)
    latents: Tensor | None = None
    move: Callable[[Tensor], None] | None = None
    length: int | None = None
    denoiser: Any = None
    likeness: Callable[[Tensor], tuple[Tensor, str]] | None = None
    mentions: "Sequence[Mention]" = ()
    encode: Callable[[Sequence[str]], Conditioning] | None = None


@runtime_checkable
class ConditioningMitigation(Protocol):
    """Gives a flagged image another conditioning from the flagged step on. One extra call, once, then none.

    What it gives is scored again and used only if no detector flags it. `needs_prompt`: it works on a rewritten prompt.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_prompt(self) -> bool: ...

    def conditioned(self, context: MitigationContext) -> Conditioning:
        """The conditioning to use instead of `context.original`, one row."""


@runtime_checkable
class PredictionMitigation(Protocol):
    """Edits a flagged image's conditional prediction at every step, so that the pipeline's own guidance goes elsewhere.

    It can't be scored in advance: whether it held shows in the finished picture. `needs_prompt` as above.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_prompt(self) -> bool: ...

    def predicted(self, context: MitigationContext) -> Tensor:
        """The prediction to return instead of `context.noise_cond`, (1, ...)."""


Mitigation = ConditioningMitigation | PredictionMitigation


class Rewriter(Protocol):
    """Proposes other prompts. Proposals only: one counts when the prompt screen and the detectors pass it.

    `needs_weights`: it wants to know which words pull, which costs a denoiser call and its gradient.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_weights(self) -> bool: ...

    def propose(self, prompt: str, concepts: Sequence["Mention"], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """Other prompts, best first; none when it has no idea. `concepts` are the protected ones found in it."""


@dataclass(frozen=True)
class Mention:
    """A protected concept found in a prompt: `text` is what stood there at characters start..end, `how` it matched,
    with its `similarity` where it was found by meaning.
    """

    concept: str
    text: str
    start: int
    end: int
    how: str
    substitute: str
    similarity: float | None = None


class Screen(Protocol):
    """Finds protected concepts in prompts."""

    def found(self, prompt: str) -> Sequence[Mention]: ...
