"""Where a memory sits, by exchanging parts with a twin that doesn't have it.

A model and its clean twin were forked from one base, so any module of one fits into the other. A group of modules
*carries* a memory if the model forgets when the group comes from the twin, and *suffices* if the twin remembers when
the group comes from the model. Needs no score and no threshold on weights: it asks the pictures. Only a testbed has
such a twin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from probes.errors import MaskError

GROUPS: Mapping[str, str] = {
    "second feed-forward layers": r"\.ff\.net\.2\.",
    "feed-forward blocks": r"\.ff\.",
    "cross-attention keys and values": r"attn2\.to_[kv]\.",
    "cross-attention": r"\.attn2\.",
    "self-attention": r"\.attn1\.",
    "transformers": r"\.attentions\.",
    "residual convolutions": r"\.resnets\.",
    "time embedding": r"^time_embedding|time_emb_proj",
    "down blocks": r"^down_blocks",
    "middle block": r"^mid_block",
    "up blocks": r"^up_blocks",
}
"""Names of parts of a Stable Diffusion UNet, and regular expressions on their parameters' names."""


@contextmanager
def transplanted(model: torch.nn.Module, donor: torch.nn.Module, pattern: str) -> Iterator[float]:
    """Inside the block the parameters of ``model`` whose names match come from ``donor``; gives their share of all.

    Bit-equal afterwards. MaskError if nothing matches or the two aren't of one architecture.
    """
    ours, theirs = model.state_dict(), donor.state_dict()
    chosen = [name for name in ours if re.search(pattern, name)]
    if not chosen:
        raise MaskError(f"{type(model).__name__} has no parameter whose name matches {pattern!r}.")
    if any(name not in theirs or theirs[name].shape != ours[name].shape for name in ours):
        raise MaskError("Parts can be exchanged between two models of one architecture only, and these two differ.")
    before = {name: ours[name].clone() for name in chosen}
    try:
        _write(ours, {name: theirs[name] for name in chosen})
        yield sum(ours[name].numel() for name in chosen) / sum(value.numel() for value in ours.values())
    finally:
        _write(ours, before)


def _write(state: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
