"""Thresholds are data: calibrated per model and settings, with where they came from, in JSON files.

A threshold is an order statistic of the scores of declared negatives. With n of them, flagging above the
ceil((1 - fpr)(n + 1))-th smallest wrongly flags a new negative with probability at most fpr, whatever the
scores' distribution (split conformal prediction: Vovk, Gammerman, Shafer, 2005, section 2.2).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from shield.errors import BadRequestError, NotCalibratedError, WeightsError, reason_of
from shield.model_names import canonical, introduce, is_same, values_of

FORMAT = 2
FORMATS = (1, 2)  # 1: models by the hash of all values, and what a Setting has None for not recorded
TIMESTEP_TOLERANCE = 1.0
SIGNAL_TOLERANCE = (0.02, 0.003)  # relative, absolute; a timestep's tolerance moves it by no more


@dataclass(frozen=True)
class Setting:
    """Everything that moves a score. `timesteps` are those of the first steps; `latent_shape` is the denoiser's
    input. What follows `distilled_guidance` is None where it wasn't recorded, and isn't compared then:
    `conditioning_sha256` names what the denoiser's inputs come from (text encoders, ControlNet), `signals` are the
    shares of clean latent at `timesteps`, `micro_conditioning` SDXL's sizes and crops, `lora_scale` and `clip_skip` the
    call's own, `caches` what keeps features between steps, `autoencoder_sha256` what previews are decoded by.
    """

    model_sha256: str
    latent_shape: tuple[int, ...]
    timesteps: tuple[float, ...]
    steps: int
    guidance_scale: float
    scheduler: str
    prediction: str
    dtype: str
    distilled_guidance: float | None = None
    conditioning_sha256: str | None = None
    signals: tuple[float, ...] | None = None
    micro_conditioning: tuple[float, ...] | None = None
    lora_scale: float | None = None
    clip_skip: int | None = None
    caches: str | None = None
    autoencoder_sha256: str | None = None

    def mismatch(self, other: "Setting", first_k: int) -> str | None:
        """Why a threshold made here doesn't hold there, or None when it does.

        A first-step score depends on neither the guidance scale nor the number of steps, only on the first timestep.
        """
        if not is_same(self.model_sha256, other.model_sha256):
            return "another checkpoint"
        for name, what in OTHER_MODELS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if None not in (mine, theirs) and not is_same(mine, theirs):
                return f"{what}, which the threshold wasn't made with"
        if self.latent_shape != other.latent_shape:
            return f"latents of {list(other.latent_shape)}, calibrated for {list(self.latent_shape)}"
        mine, theirs = self.timesteps[:first_k], other.timesteps[:first_k]
        apart = [abs(a - b) for a, b in zip(mine, theirs, strict=False)]
        if len(mine) != len(theirs) or max(apart, default=0.0) > TIMESTEP_TOLERANCE:
            return f"first timesteps {list(theirs)}, calibrated for {list(mine)}"
        if not _close(self.signals, other.signals, first_k):
            return "another noise schedule (betas) than the threshold was made with"
        if self.prediction != other.prediction:
            return f"a scheduler that predicts {other.prediction}, calibrated for {self.prediction}"
        if self.distilled_guidance != other.distilled_guidance:
            return f"distilled guidance {other.distilled_guidance}, calibrated for {self.distilled_guidance}"
        for name, what in CALL_OPTIONS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if None not in (mine, theirs) and mine != theirs and (name != "caches" or first_k > 1):
                return f"{what} {_words(theirs)}, calibrated for {_words(mine)}"
        if first_k > 1 and (self.guidance_scale, self.scheduler) != (other.guidance_scale, other.scheduler):
            here = f"{self.scheduler} at guidance {self.guidance_scale:g}"
            return f"{other.scheduler} at guidance {other.guidance_scale:g}, calibrated for {here}"
        return None


OWN_CALL = "safe.calibrate("
OTHER_MODELS = {
    "conditioning_sha256": "another text encoder or ControlNet",
    "autoencoder_sha256": "another autoencoder",
}
CALL_OPTIONS = {
    "micro_conditioning": "the sizes and crops",
    "lora_scale": "a LoRA scale of",
    "clip_skip": "a clip_skip of",
    "caches": "the feature caches",
}


def _close(mine: Sequence[float] | None, theirs: Sequence[float] | None, first_k: int) -> bool:
    if mine is None or theirs is None:
        return True
    relative, absolute = SIGNAL_TOLERANCE
    pairs = zip(mine[:first_k], theirs[:first_k], strict=False)
    return not any(abs(a - b) > relative * max(a, b) + absolute for a, b in pairs)


def _words(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else f"{value}" or "none"


class Scorer(Protocol):
    """What thresholds are for: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str: ...

    @property
    def first_k(self) -> int:
        """How many steps from the first on it depends on."""


@dataclass(frozen=True)
class Threshold:
    """Flag an image whose score is above `value`.

    `fpr` is the wanted false-positive rate, `negatives` the number of scores it was made from, `interval` the 95 %
    interval of the quantile it estimates, `provenance` says which prompts, seeds and versions, `file` where it was
    read.
    """

    detector: str
    options: Mapping[str, Any]
    model: str
    setting: Setting
    value: float
    fpr: float
    negatives: int
    interval: tuple[float, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = field(default=None, compare=False)


def options_of(detector: Scorer) -> dict[str, Any]:
    """A detector's options by name: those that it names itself, else its fields."""
    own = getattr(detector, "options", None)
    if own is not None:
        return dict(own)
    return {f.name: getattr(detector, f.name) for f in fields(detector)}  # type: ignore[arg-type]


def calibrated(
    detector: Scorer,
    scores: Sequence[float],
    fpr: float,
    setting: Setting,
    model: str,
    provenance: Mapping[str, Any] | None = None,
) -> Threshold:
    """The threshold that flags at most `fpr` of negatives like these.

    Raises BadRequestError for scores that aren't finite, a rate outside (0, 1), or too few negatives for the rate.
    """
    value, interval = quantile(detector.name, scores, fpr)
    return Threshold(
        detector.name, options_of(detector), model, setting, value, fpr, len(scores), interval, dict(provenance or {})
    )


def quantile(name: str, scores: Sequence[float], fpr: float) -> tuple[float, tuple[float, float]]:
    """The score above which at most `fpr` of new negatives like these lie, and the 95 % interval of that quantile.

    Raises BadRequestError for scores that aren't finite, a rate outside (0, 1), or too few scores for the rate.
    """
    if not 0.0 < fpr < 1.0:
        raise BadRequestError(f"A false-positive rate lies between 0 and 1; {fpr:g} was given.")
    if not all(math.isfinite(s) for s in scores):
        raise BadRequestError(f"{name} gave scores that are no numbers; nothing was calibrated.")
    n = len(scores)
    rank = math.ceil(round((1.0 - fpr) * (n + 1), 9))
    if rank > n:
        need = math.ceil(1.0 / fpr) - 1
        raise BadRequestError(f"A false-positive rate of {fpr:g} needs at least {need} negatives; {n} were given.")
    ordered = sorted(float(s) for s in scores)
    low, high = _rank_interval(n, 1.0 - fpr)
    return ordered[rank - 1], (ordered[low], ordered[high])


def _rank_interval(n: int, share: float, level: float = 0.95) -> tuple[int, int]:
    """Indexes of the order statistics that bracket the `share` quantile with at least `level` where n allows it."""
    from scipy.stats import binom

    tail = (1.0 - level) / 2.0
    low, high = int(binom.ppf(tail, n, share)) - 1, int(binom.ppf(1.0 - tail, n, share))
    return max(low, 0), min(high, n - 1)


def save_threshold(threshold: Threshold, folder: Path) -> Path:
    """Writes one JSON file, whole or not at all; a threshold for the same detector and setting is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    key = sha256(_identity(threshold).encode()).hexdigest()[:10]
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in threshold.model)
    path = folder / f"{safe}.{threshold.detector}.{key}.json"
    part = path.with_suffix(".part")
    about = {name: value for name, value in asdict(threshold).items() if name != "file"}
    written = {"format": FORMAT, **about, "models": models_in(threshold.setting)}
    part.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def drop_replaced(threshold: Threshold, path: Path) -> None:
    """Removes the thresholds beside this one's file that hold where it does: also those of another number of steps or
    guidance scale, where these don't move the score.
    """
    for other in path.parent.glob(f"*.{threshold.detector}.*.json"):
        if other != path and _is_replaced(other, threshold):
            other.unlink(missing_ok=True)


def _is_replaced(file: Path, threshold: Threshold) -> bool:
    """Whether the file's threshold holds wherever this one does, so that nobody could say which of them is meant."""
    try:
        old = _read(file)
    except WeightsError:
        return False
    if (old.detector, dict(old.options)) != (threshold.detector, dict(threshold.options)):
        return False
    is_later = "point" in old.options or "first_k" not in old.options
    first_k = len(threshold.setting.timesteps) + 1 if is_later else int(old.options["first_k"])
    return old.setting.mismatch(threshold.setting, first_k) is None


def load_thresholds(folder: Path) -> list[Threshold]:
    """Every threshold in a folder; none when it doesn't exist.

    Raises:
        WeightsError: A file can't be read, or two files hold a threshold for one detector at one setting.
    """
    files: dict[str, Path] = {}
    thresholds = []
    for path in sorted(folder.glob("*.json")):
        threshold = _read(path)
        earlier = files.setdefault(_identity(threshold), path)
        if earlier != path:
            raise WeightsError(
                f"{earlier} and {path} both hold a threshold of {threshold.detector} for one setting; remove one."
            )
        thresholds.append(threshold)
    return thresholds


def models_in(setting: Setting) -> dict[str, str]:
    """What the setting's models are known by, by name; see shield/model_names.py."""
    names = (setting.model_sha256, *(getattr(setting, name) for name in OTHER_MODELS))
    known = {name: values_of(name) for name in names if name is not None}
    return {name: values for name, values in known.items() if values is not None}


def _identity(threshold: Threshold) -> str:
    """What a threshold is for: its detector, the detector's options, and the setting."""
    setting = {n: canonical(v) if n.endswith("sha256") else v for n, v in asdict(threshold.setting).items()}
    identity = [threshold.detector, dict(threshold.options), setting]
    return json.dumps(identity, sort_keys=True)


def _read(path: Path) -> Threshold:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("format")
        if version not in FORMATS:
            raise ValueError(f"its format isn't {FORMAT}")
        given = data.pop("setting")
        models = {given["model_sha256"]: None} if version == 1 else data.pop("models")
        for name, values in models.items():
            introduce(name, values)
        setting = Setting(**{name: _tupled(value) for name, value in given.items()})
        data["options"] = {name: _tupled(value) for name, value in data["options"].items()}
        threshold = Threshold(**data, setting=setting, file=str(path))
        if not math.isfinite(threshold.value):
            raise ValueError("its value is no number")
        low, high = threshold.interval
        return replace(threshold, interval=(float(low), float(high)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            f"{path} isn't a threshold file ({reason_of(error)}); run `diffshield calibrate` again."
        ) from None


def _tupled(value: Any) -> Any:
    """JSON's lists as the tuples that options hold."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def found(
    thresholds: Iterable[Threshold],
    detector: Scorer,
    setting: Setting,
    command: Callable[[], str] = lambda: "calibrate",
) -> Threshold:
    """The threshold for this detector at this setting, of the first folder that has one. `command()` makes it.

    Raises NotCalibratedError, with the nearest miss and the command, and WeightsError where two different ones of one
    folder hold.
    """
    options, misses = options_of(detector), []
    holding: list[Threshold] = []
    for threshold in thresholds:
        if threshold.detector != detector.name or dict(threshold.options) != options:
            continue
        why = threshold.setting.mismatch(setting, detector.first_k)
        misses += [] if why is None else [why]
        holding += [threshold] if why is None else []
    beside = [one for one in holding if _folder(one) == _folder(holding[0])]
    other = next((one for one in beside if one.value != holding[0].value), None)
    if other is not None:
        both = " and ".join(one.file or f"a threshold of {one.value:g}" for one in (holding[0], other))
        raise WeightsError(f"{both} both hold for {detector.name} at this setting; remove one.")
    if holding:
        return holding[0]
    near = min((m for m in misses if m != "another checkpoint"), default=None, key=len)
    reason = f"the run has {near}" if near else "none was made for this checkpoint"
    raise NotCalibratedError(f"{detector.name} has no threshold here: {reason}. To make one, {asked_to(command())}.")


def asked_to(command: str) -> str:
    """What to do, as a part of a sentence: a command of the shell, or a call of the Shield itself."""
    return f"call `{command}`" if command.startswith(OWN_CALL) else f"run `diffshield {command}`"


def _folder(threshold: Threshold) -> Path | None:
    return None if threshold.file is None else Path(threshold.file).parent
