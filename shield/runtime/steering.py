"""Mitigations at work in one call: which one an image gets, whether it holds, and what is predicted for it."""

from collections.abc import Container, Iterator

from torch import Tensor

from shield.errors import MissingSignalError
from shield.hooks.forward import Forward
from shield.hooks.intercept import denoiser_of
from shield.mitigations import NullPrompt
from shield.model.conditioning import Conditioning, encoded, prompt_length
from shield.reasons import Reason
from shield.rewriters.attribution import word_weights
from shield.runtime.call import CallState, ImageState
from shield.runtime.looks import Previews
from shield.runtime.scoring import CallScorer
from shield.types import Mitigation, MitigationContext, PredictionMitigation, WordWeight


class Steering:
    """Finds mitigations for the images of one call, and predicts what they are to become."""

    def __init__(self, call: CallState, scorer: CallScorer, previews: Previews) -> None:
        self.call, self.scorer, self.previews = call, scorer, previews
        self._filled: dict[int, Conditioning | None] = {}

    def mitigate(self, forward: Forward, image: ImageState) -> Tensor:
        """The row's new prediction by the next mitigation that holds; blocks when none does."""
        for mitigation in self.call.policy.mitigations[image.tried :]:
            self.call.moves.pop(image.row, None)
            image.tried += 1
            image.spent = image.tried if forward.index == 0 else image.spent
            for prompt in self._proposals(forward, image) if mitigation.needs_prompt else (None,):
                image.safe = None if prompt is None else encoded(self.call.pipe, [prompt], self.call.tokens)
                image.mitigation, image.rewritten, image.memory, image.swap = mitigation, prompt, {}, None
                prediction = self._tried(forward, image, mitigation)
                if prediction is not None:
                    return prediction
        self.call.moves.pop(image.row, None)
        image.mitigation, image.rewritten, image.action = None, None, "block"
        image.reasons += (Reason("exhausted"),)
        return self.blocked(forward, image)

    def blocked(self, forward: Forward, image: ImageState) -> Tensor:
        """The empty prompt's prediction for an image that is blanked at the end; where that can't be had, its own."""
        try:
            return self.empty(forward, image)
        except MissingSignalError:
            return forward.noise_cond[[image.row]]

    def _proposals(self, forward: Forward, image: ImageState) -> Iterator[str]:
        """Rewritten prompts in which the screen finds nothing, as long as extra calls are left. One call is left for
        each later mitigation that takes rewritten prompts too.
        """
        if image.prompt is None:
            return
        later = self.call.policy.mitigations[image.tried :]
        budget = self.call.policy.extra_calls - sum(one.needs_prompt for one in later)
        for rewriter in self.call.policy.rewriters:
            if rewriter.needs_weights and not image.weights:
                image.weights = self._weighed(forward, image)
            for prompt in rewriter.propose(image.prompt, image.mentions, image.weights):
                if image.extra_calls >= budget:
                    return
                if self.call.plan.screen is None or not self.call.plan.screen.found(prompt):
                    yield prompt

    def _weighed(self, forward: Forward, image: ImageState) -> tuple[WordWeight, ...]:
        """Which words pull, within the budget of extra calls; none when they can't be told."""
        is_usable = forward.noise_uncond is not None and not self.call.has_own_uncond(forward)
        uncond = forward.noise_uncond[[image.row]] if is_usable and forward.noise_uncond is not None else None
        if image.prompt is None or image.extra_calls + (uncond is None) >= self.call.policy.extra_calls:
            return ()
        structure = "noise_gap" not in {score.detector for score in image.scores if score.flagged}
        try:
            return word_weights(self.call.pipe, image.prompt, self._context(forward, image), uncond, structure)
        except MissingSignalError:
            return ()

    def _tried(self, forward: Forward, image: ImageState, mitigation: Mitigation) -> Tensor | None:
        """The prediction this mitigation gives now; None when a detector still flags it or this call can't use it."""
        conditioning = None
        try:
            if isinstance(mitigation, NullPrompt):
                return self._unasked_picture(forward, image)
            context = self._context(forward, image)
            if isinstance(mitigation, PredictionMitigation):
                prediction, checked = mitigation.predicted(context), mitigation.needs_prompt
            else:
                conditioning, checked = mitigation.conditioned(context), True
                prediction = context.rerun(conditioning)
        except MissingSignalError:
            return None
        if checked and not (
            self.scorer.holds(forward, image, prediction) and self.previews.passes(forward, image, prediction)
        ):
            return None
        image.swap = conditioning
        return prediction

    def _unasked_picture(self, forward: Forward, image: ImageState) -> Tensor | None:
        """The empty prompt's prediction. Detectors can't judge what it draws (`unasked`): a policy that blocks what
        can't be judged takes the next mitigation, and others tell, unless a gallery looks at the picture.
        """
        blind = any("noise_uncond" in detector.needs for detector in self.call.policy.detectors)
        if blind and self.call.policy.on_unscored == "block":
            return None
        prediction = self.empty(forward, image)
        if not self.previews.passes(forward, image, prediction):
            return None
        if blind and not self.call.plan.gallery:
            image.scored = False
            image.reasons += (Reason("unchecked", detail=NullPrompt.name),)
        return prediction

    def empty(self, forward: Forward, image: ImageState) -> Tensor:
        """The empty prompt from here on. Free when the unconditional half is the empty prompt's. Raises
        MissingSignalError where there is no text encoder to read it.
        """
        image.swap = self.call.null
        if forward.noise_uncond is not None and not self.call.has_own_uncond(forward):
            return forward.noise_uncond[[image.row]]
        image.extra_calls += 1
        return forward.rerun([image.row], self.call.null)

    def predictions(self, forward: Forward, done: Container[int]) -> Iterator[tuple[int, Tensor]]:
        """Rows whose mitigation edits predictions at every step, without those that are done at this one."""
        for image in self.call.images:
            if image.action == "mitigate" and image.row not in done:
                if isinstance(image.mitigation, PredictionMitigation):
                    yield image.row, image.mitigation.predicted(self._context(forward, image))

    def apart(self, forward: Forward, done: Container[int]) -> dict[int, Tensor]:
        """Rows with another conditioning than the denoiser's kept features were made with, predicted without those.

        What is exchanged at the first step goes into caches that can be filled anew, and then needs nothing more.
        """
        swapped = [image for image in self.call.images if image.swap is not None]
        if forward.refills:
            self._filled = {image.row: image.swap for image in swapped}
            for image in swapped:
                image.extra_calls += forward.refills
        others = [i for i in swapped if i.row not in done and i.swap is not self._filled.get(i.row)]
        return {image.row: self._swapped(forward, image) for image in others}

    def _swapped(self, forward: Forward, image: ImageState) -> Tensor:
        if image.swap is self.call.encoded_null:
            return self.empty(forward, image)
        image.extra_calls += 1
        assert image.swap is not None
        return forward.rerun([image.row], image.swap)

    def _context(self, forward: Forward, image: ImageState) -> MitigationContext:
        row, said = [image.row], image.rewritten or image.prompt

        def rerun(conditioning: Conditioning, latents: Tensor | None = None) -> Tensor:
            image.extra_calls += 1
            return forward.rerun(row, conditioning, latents=latents)

        def move(latents: Tensor) -> None:
            self.call.moves[image.row] = (forward.latents[image.row], latents[0])

        return MitigationContext(
            step=forward.index,
            steps=len(self.call.pipe.scheduler.timesteps),
            guidance_scale=self.call.guidance_scale(),
            noise_cond=forward.noise_cond[row],
            noise_uncond=None if forward.noise_uncond is None else forward.noise_uncond[row],
            original=forward.conditioning.rows(row),
            safe=image.safe,
            null=self.call.null,
            rerun=rerun,
            memory=image.memory,
            latents=forward.latents[row],
            move=move,
            length=None if said is None else prompt_length(self.call.pipe, said, self.call.tokens),
            denoiser=denoiser_of(self.call.pipe),
            likeness=None if self.call.likeness is None else self.call.likeness.at(forward, image.row),
            mentions=image.mentions,
            encode=lambda texts: encoded(self.call.pipe, list(texts), self.call.tokens),
        )
