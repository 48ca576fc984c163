"""`Shield`: a diffusers pipeline that watches itself. Call it like the pipeline; the output has `.verdicts`."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from shield.errors import BadRequestError, NotCalibratedError, WeightsError
from shield.families import Family, family_of
from shield.fingerprint import model_sha256
from shield.gallery import Gallery
from shield.intercept import denoiser_of, intercepted, watched_layers
from shield.load import load
from shield.output import blanked, images_of, pil_images, with_verdicts
from shield.policy import Policy, preset
from shield.settings import setting_of
from shield.thresholds import Threshold, load_thresholds
from shield.types import Screen, Verdict
from shield.watcher import Plan, Watched, Watcher
from shield.weights import weights_dir

__all__ = ["Shield", "setting_of"]


class Shield:
    """Wraps a pipeline so that memorized and protected pictures don't leave it.

    `policy`: a Policy or a preset's name. `gallery`: finished pictures are checked against it. `concepts`: prompts are
    screened for them. `thresholds`: a folder or Threshold objects; by default the shipped ones. What isn't flagged is
    bit-equal to the bare pipeline's on the same seed and costs no denoiser call.

    Raises UnsupportedPipelineError, and NotCalibratedError when no detector of the policy was ever calibrated for
    this checkpoint (unless the policy says to block or pass what it can't judge).
    """

    def __init__(
        self,
        pipe: Any,
        policy: Policy | str = "balanced",
        gallery: Gallery | None = None,
        concepts: Screen | None = None,
        thresholds: Path | str | Iterable[Threshold] | None = None,
    ) -> None:
        self.family: Family = family_of(pipe)
        self.pipe = pipe
        self.policy = preset(policy) if isinstance(policy, str) else policy
        self.gallery, self.concepts = gallery, concepts
        self.thresholds: list[Threshold] = _thresholds(thresholds)
        self._fingerprint: tuple[Any, str] | None = None
        self._refuse_uncalibrated()

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: Any = None, **options: Any) -> "Shield":
        """`load(name, device, dtype)` and wrap it; `options` as for Shield."""
        return cls(load(name, device, dtype), **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own call and output, with `.verdicts` (list of Verdict, one per image).

        Raises BadRequestError for prompts the pipeline can't use, NotCalibratedError or MissingSignalError when an
        image can't be judged and the policy says to raise. After an exception hooks, scheduler and generators are as
        they were.
        """
        started = perf_counter()
        request = _bound(self.pipe, args, kwargs)
        images = _watched(request, self.concepts)
        watcher = Watcher(self.pipe, self._plan(request), images, lambda: self._guidance_scale(request))
        guidance = self._guidance_scale(request) if self.family.layout == "separate" else None
        before = perf_counter() - started
        with _restored_on_error(self.pipe, request.get("generator")):
            layers = watched_layers(self.policy.needs)
            with intercepted(self.pipe, watcher.on_forward, watcher.on_inputs, guidance, layers):
                output = self.pipe(*args, **kwargs)
            return self._checked(output, watcher, request, before)

    def _plan(self, request: Mapping[str, Any]) -> Plan:
        stacked = self.family.layout == "stacked"
        named = [request.get(name) for name in ("negative_prompt", "negative_prompt_2", "negative_prompt_3")]
        zeros = self.pipe.config.get("force_zeros_for_empty_prompt", False)
        negative = any(_says_something(n) or (zeros and n is not None) for n in named)
        given = any(request.get(n) is not None for n in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"))
        separate = request.get("negative_prompt") is not None or given
        scale = self._guidance_scale(request)
        return Plan(
            family=self.family,
            policy=self.policy,
            thresholds=self.thresholds,
            model_sha256=self.model_sha256,
            guided=not stacked and separate and scale > 1.0,
            own_uncond=negative or given,
            screen=self.concepts,
        )

    def _guidance_scale(self, request: Mapping[str, Any]) -> float:
        name = "guidance_scale" if self.family.layout == "stacked" else "true_cfg_scale"
        return float(request.get(name) or 1.0)

    @property
    def model_sha256(self) -> str:
        """The denoiser's fingerprint, made again when its parameters were exchanged or written to."""
        denoiser = denoiser_of(self.pipe)
        state = [(name, 0 if p.is_inference() else p._version) for name, p in denoiser.named_parameters()]
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, model_sha256(denoiser))
        return self._fingerprint[1]

    def _refuse_uncalibrated(self) -> None:
        if self.policy.on_unscored != "raise":
            return
        made = {t.detector for t in self.thresholds if t.setting.model_sha256 == self.model_sha256}
        for detector in self.policy.detectors:
            if detector.name not in made:
                raise NotCalibratedError(
                    f"{detector.name} was never calibrated for this checkpoint ({self.model_sha256[:12]}); "
                    "run `diffshield calibrate`, or choose a policy with on_unscored='block' or 'pass'."
                )

    def _checked(self, output: Any, watcher: Watcher, request: Mapping[str, Any], before: float) -> Any:
        """Checks the finished pictures against the gallery and blanks the blocked ones."""
        started = perf_counter()
        images = images_of(output)
        nearest = self._nearest(images, request.get("output_type") or "pil")
        for image in watcher.images:
            copied = nearest[image.row]
            if copied is not None and copied.copied:
                image.reasons += (f"the picture copies {copied.work} ({copied.metric} {copied.score:.3f})",)
                image.action = self.policy.on_copy if image.action != "block" else "block"
            if image.action == "block":
                images = blanked(images, image.row)
        seconds = before + watcher.seconds + perf_counter() - started
        share = 1000.0 * seconds / max(len(watcher.images), 1)
        verdicts = [_verdict(image, nearest[image.row], share) for image in watcher.images]
        return with_verdicts(output, images, verdicts)

    def _nearest(self, images: Any, output_type: str) -> list[Any]:
        if self.gallery is None or not len(self.gallery):
            return [None] * len(images)
        return [self.gallery.nearest(picture) for picture in pil_images(self.pipe, images, output_type)]


def _thresholds(given: Path | str | Iterable[Threshold] | None) -> list[Threshold]:
    if given is not None and not isinstance(given, str | Path):
        return list(given)
    if given is not None:
        return load_thresholds(Path(given))
    try:
        return load_thresholds(weights_dir() / "thresholds")
    except WeightsError:
        return []


def _bound(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline call's arguments by name, defaults included. Raises BadRequestError."""
    signature = inspect.signature(type(pipe).__call__)
    try:
        bound = signature.bind(pipe, *args, **kwargs)
    except TypeError as error:
        raise BadRequestError(f"{type(pipe).__name__} can't be called like this: {error}.") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def _watched(request: Mapping[str, Any], screen: Screen | None) -> list[Watched]:
    """One Watched per picture the call makes, in the pipeline's order. Raises BadRequestError."""
    prompt, embeds = request.get("prompt"), request.get("prompt_embeds")
    if isinstance(prompt, str):
        prompts: list[str | None] = [prompt]
    elif isinstance(prompt, list | tuple) and prompt and all(isinstance(p, str) for p in prompt):
        prompts = list(prompt)
    elif prompt is None and isinstance(embeds, torch.Tensor):
        prompts = [None] * len(embeds)
    else:
        raise BadRequestError(f"A prompt is a text or a list of texts; {type(prompt).__name__} was given.")
    copies = request.get("num_images_per_prompt") or 1
    texts = [p for p in prompts for _ in range(copies)]
    mentions = {p: screen.found(p) for p in set(prompts) if p} if screen else {}
    return [Watched(row, text, mentions.get(text, ()) if text else ()) for row, text in enumerate(texts)]


def _says_something(negative: Any) -> bool:
    return any(negative) if isinstance(negative, list | tuple) else bool(negative)


@contextmanager
def _restored_on_error(pipe: Any, generator: Any) -> Iterator[None]:
    """After an exception the scheduler's state, the caller's generators and torch's own are as before the block."""
    generators = generator if isinstance(generator, list | tuple) else [generator]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    scheduler, cpu = dict(vars(pipe.scheduler)), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    except BaseException:
        vars(pipe.scheduler).clear()
        vars(pipe.scheduler).update(scheduler)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)
        for kept, state in states:
            kept.set_state(state)
        raise


def _verdict(image: Watched, nearest: Any, milliseconds: float) -> Verdict:
    mitigated = image.action == "mitigate"
    return Verdict(
        index=image.row,
        prompt=image.prompt,
        status={"mitigate": "mitigated", "block": "blocked"}.get(image.action, "passed"),
        scores=tuple(image.scores),
        reasons=image.reasons,
        mitigation=image.mitigation.name if mitigated and image.mitigation else None,
        rewritten_prompt=image.rewritten if mitigated else None,
        concepts=tuple(m.concept for m in image.mentions),
        nearest=nearest,
        scored=image.scored,
        token_weights=image.weights,
        extra_calls=image.extra_calls,
        milliseconds=milliseconds,
    )
