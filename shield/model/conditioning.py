"""What a prompt becomes before it reaches the denoiser: made from text, read from a call, written into a call.

One Conditioning is one or more rows of token embeddings and, where the family has them, of pooled embeddings and of a
mask that says which tokens are text; they travel together always (Guardians of Generation mixes the one and replaces
the other for SDXL).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shield.errors import MissingSignalError, TraceError
from shield.model.families import Family, family_of


@dataclass(frozen=True)
class Conditioning:
    """`embeds` (B, T, D); `pooled` (B, P), or None for families without; `mask` (B, T), None where all are text."""

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def rows(self, indexes: Sequence[int]) -> "Conditioning":
        """Only these rows."""
        picked = list(indexes)
        pooled, mask = (None if t is None else t[picked] for t in (self.pooled, self.mask))
        return Conditioning(self.embeds[picked], pooled, mask)

    def repeated(self, times: int) -> "Conditioning":
        """One row, this many times."""
        return self.rows([0] * times)

    def fitted(self, tokens: int) -> "Conditioning":
        """The same with this many tokens. Attention over a sequence repeated whole is attention over the sequence; with
        a mask it is made longer by tokens that are no text.
        """
        have = self.embeds.shape[1]
        if have == tokens:
            return self
        if self.mask is not None:
            return self._padded(tokens)
        times = -(-tokens // have)
        return Conditioning(self.embeds.repeat(1, times, 1)[:, :tokens], self.pooled)

    def _padded(self, tokens: int) -> "Conditioning":
        assert self.mask is not None
        more = max(tokens - self.embeds.shape[1], 0)
        embeds = torch.nn.functional.pad(self.embeds, (0, 0, 0, more))[:, :tokens]
        return Conditioning(embeds, self.pooled, torch.nn.functional.pad(self.mask, (0, more))[:, :tokens])

    def mixed(self, other: "Conditioning", weight: float) -> "Conditioning":
        """(1 - weight) * self + weight * other, token by token."""
        tokens = max(self.embeds.shape[1], 0 if other.mask is None else other.embeds.shape[1])
        if self.mask is not None and tokens > self.embeds.shape[1]:
            return self._padded(tokens).mixed(other, weight)
        other = other.fitted(tokens)
        if self.embeds.shape != other.embeds.shape:
            raise TraceError(f"Embeddings of {tuple(self.embeds.shape)} and {tuple(other.embeds.shape)} don't mix.")
        pooled = self.pooled
        if pooled is not None and other.pooled is not None:
            pooled = torch.lerp(pooled, other.pooled.to(pooled), weight)
        mask = None if self.mask is None or other.mask is None else torch.maximum(self.mask, other.mask.to(self.mask))
        mask = other.mask if weight == 1.0 else mask
        return Conditioning(torch.lerp(self.embeds, other.embeds.to(self.embeds), weight), pooled, mask)


def read(family: Family, named: dict[str, Any], start: int, batch: int) -> Conditioning:
    """The conditioning of rows start..start+batch of a denoiser call."""
    rows, embeds = slice(start, start + batch), named[family.embeds]
    pooled, mask = _pooled(family, named), None if family.mask is None else named.get(family.mask)
    mask = mask[rows, : embeds.shape[1]] if mask is not None else None
    if mask is None and family.ragged:
        mask = embeds.new_ones(embeds[rows].shape[:2], dtype=torch.bool)
    return Conditioning(embeds[rows], None if pooled is None else pooled[rows], mask)


def written(
    family: Family, named: dict[str, Any], conditioning: Conditioning, rows: Sequence[int] | None = None
) -> dict[str, Any]:
    """`named` with these rows' (all rows' when None) conditioning replaced. Nothing is changed in place."""
    changed = dict(named)
    if rows is not None:
        conditioning = conditioning.fitted(named[family.embeds].shape[1])
    changed[family.embeds] = _put(named[family.embeds], conditioning.embeds, rows)
    if family.mask is not None:
        changed[family.mask] = _mask(named.get(family.mask), named[family.embeds], conditioning, rows)
    pooled = _pooled(family, named)
    if family.pooled is None or pooled is None or conditioning.pooled is None:
        return changed
    replaced = _put(pooled, conditioning.pooled, rows)
    container, _, key = family.pooled.rpartition(".")
    changed[container or key] = {**named[container], key: replaced} if container else replaced
    return changed


def _pooled(family: Family, named: dict[str, Any]) -> Tensor | None:
    if family.pooled is None:
        return None
    container, _, key = family.pooled.rpartition(".")
    return (named[container] if container else named).get(key)


def _mask(whole: Tensor | None, embeds: Tensor, part: Conditioning, rows: Sequence[int] | None) -> Tensor | None:
    """A call's mask with the conditioning's in. What it says about anything behind the text stays."""
    if whole is None and (part.mask is None or bool(part.mask.all())):
        return None
    said = part.mask if part.mask is not None else embeds.new_ones(part.embeds.shape[:2], dtype=torch.bool)
    if whole is None:
        whole = said.new_ones(embeds.shape[:2])
    changed, tokens = whole.clone(), embeds.shape[1]
    if rows is None:
        return torch.cat([said.to(changed), changed[:, tokens:]], dim=1)
    changed[list(rows), :tokens] = said.to(changed)
    return changed


def _put(whole: Tensor, part: Tensor, rows: Sequence[int] | None) -> Tensor:
    part = part.to(device=whole.device, dtype=whole.dtype)
    if rows is None:
        return part
    if part.shape[1:] != whole.shape[1:]:
        raise TraceError(f"Embeddings of {tuple(part.shape[1:])} don't fit this call's {tuple(whole.shape[1:])}.")
    changed = whole.clone()
    changed[list(rows)] = part
    return changed


def _encode_sd(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    return Conditioning(pipe.encode_prompt(prompts, pipe._execution_device, 1, False, clip_skip=_skip(pipe))[0])


def _encode_sdxl(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    embeds, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, clip_skip=_skip(pipe))
    return Conditioning(embeds, pooled)


def _encode_sd3(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    long = {} if tokens is None else {"max_sequence_length": tokens - pipe.tokenizer_max_length}
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, clip_skip=_skip(pipe), **long
    )
    return Conditioning(embeds, pooled)


def _encode_flux(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    long = {} if tokens is None else {"max_sequence_length": tokens}
    embeds, pooled, _ = pipe.encode_prompt(prompts, None, **long)
    return Conditioning(embeds, pooled)


def _encode_auraflow(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    return Conditioning(pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **_long(tokens))[0])


def _encode_kolors(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    embeds, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **_long(tokens))
    return Conditioning(embeds, pooled)


def _encode_masked(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    embeds, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **_long(tokens))
    return Conditioning(embeds, mask=mask)


def _encode_chroma(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    embeds, _, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **_long(tokens))
    return Conditioning(embeds, mask=mask)


def _encode_flux2(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    return Conditioning(pipe.encode_prompt(prompts, **_long(tokens))[0])


def _encode_zimage(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    texts, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)  # which writes into its list
    lengths = torch.tensor([len(text) for text in texts], device=texts[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return Conditioning(padded, mask=torch.arange(padded.shape[1], device=padded.device) < lengths[:, None])


def _encode_qwen(pipe: Any, prompts: list[str], tokens: int | None) -> Conditioning:
    embeds, mask = pipe.encode_prompt(prompts)
    return Conditioning(embeds, mask=torch.ones(embeds.shape[:2], device=embeds.device) > 0 if mask is None else mask)


def _long(tokens: int | None) -> dict[str, int]:
    return {} if tokens is None else {"max_sequence_length": tokens}


def _skip(pipe: Any) -> int | None:
    """The running call's `clip_skip`."""
    return getattr(pipe, "_clip_skip", None)


ENCODERS: dict[str, Callable[[Any, list[str], int | None], Conditioning]] = {
    "sd": _encode_sd,
    "sdxl": _encode_sdxl,
    "sd3": _encode_sd3,
    "flux": _encode_flux,
    "auraflow": _encode_auraflow,
    "kolors": _encode_kolors,
    "sana": _encode_masked,
    "pixart": _encode_masked,
    "chroma": _encode_chroma,
    "flux2": _encode_flux2,
    "flux2dev": _encode_flux2,
    "zimage": _encode_zimage,
    "qwenimage": _encode_qwen,
    "lcm": _encode_sd,
}


def encoded(pipe: Any, prompts: list[str], tokens: int | None = None, differentiable: bool = False) -> Conditioning:
    """The conditioning of these prompts, one row each, by the pipeline's own encoders.

    `tokens` is the length T that the running call uses, where the family leaves it to the caller. `differentiable`
    keeps the graph. Raises MissingSignalError for a pipeline without its text encoders.
    """
    family = family_of(pipe)
    encoders = [name for name in vars(pipe) if name.startswith("text_encoder")]
    if encoders and all(getattr(pipe, name) is None for name in encoders):
        raise MissingSignalError(
            f"This {type(pipe).__name__} has no text encoder ({', '.join(encoders)}), so what a prompt says can't be "
            "predicted; load it with its text encoders."
        )
    with torch.set_grad_enabled(differentiable):
        return ENCODERS[family.name](pipe, prompts, tokens)


def prompt_length(pipe: Any, prompt: str, tokens: int) -> int | None:
    """How many of `tokens` the prompt fills, begin and end included; None where CLIP's text isn't all there is."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if family_of(pipe).denoiser != "unet" or tokenizer is None or tokens != tokenizer.model_max_length:
        return None
    return len(tokenizer(prompt, truncation=True, max_length=tokens).input_ids)


def says_nothing(pipe: Any, prompt: str) -> bool:
    """Whether a prompt is the empty one to every tokenizer of this pipeline: no text, spaces, unprintable letters."""
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    return all(t(prompt, verbose=False).input_ids == t("").input_ids for t in tokenizers if t is not None)


@torch.no_grad()
def null_conditioning(pipe: Any, tokens: int | None = None) -> Conditioning:
    """One row: what the pipeline takes for "no prompt" when the caller gives no negative prompt."""
    empty = encoded(pipe, [""], tokens)
    if empty.pooled is not None and pipe.config.get("force_zeros_for_empty_prompt"):
        return Conditioning(torch.zeros_like(empty.embeds), torch.zeros_like(empty.pooled))
    return empty
