"""What single layers do with embeddings at one fixed noise: their activations, and the masks a localizer makes of them.

Everything is of one denoiser call on pure noise at the last timestep, so all embeddings meet the same latent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.localizers import FFNSubspace, RandomMask
from probes.metrics.pairs import mean_of_pairs
from probes.model.activations import watched
from probes.model.batches import in_batches
from probes.model.denoising import first_noise, predict
from probes.model.generate import encode_prompts
from probes.model.layers import FFN_OUTPUTS, VALUES, layer_at, matching_weights
from probes.model.training_loss import last_timestep
from probes.types import Subject, UnitMask

Groups = Mapping[str, Sequence[Sequence[torch.Tensor]]]
"""Name -> blocks of embeddings (T, D); only pairs within a block are compared."""
Maker = Callable[[Sequence[str], torch.Tensor], list[UnitMask]]
"""Masks of named embeddings (B, T, D), each alone."""

NOISES = 4
BATCH = 16
BYTES = 2**30


def activation_rows(subject: Subject, groups: Groups, seed: int) -> list[dict[str, Any]]:
    """For each feed-forward and value layer the mean distance of activations within the blocks of each group.

    Group "noises" is added: each caption with NOISES noises. Feed-forward layers count by their inner neurons, value
    layers by their outputs.
    """
    every = {**groups, "noises": [[caption] * NOISES for block in groups["captions"] for caption in block]}
    embeds = torch.stack([one for blocks in every.values() for block in blocks for one in block])
    seeds = [
        seed + place if name == "noises" else seed
        for name, blocks in every.items()
        for block in blocks
        for place in range(len(block))
    ]
    rows = []
    for paths in _affordable(subject, embeds[:1], seed, len(embeds)):
        for path, values in activations(subject, embeds, seeds, paths).items():
            cells = {
                name: mean_of_pairs([apart(values[place]) for place in places])
                for name, places in _places(every).items()
            }
            rows.append(
                {"layer": path, "kind": "value" if re.search(VALUES, path) else "feed-forward", "groups": cells}
            )
    return rows


def mask_rows(subject: Subject, groups: Groups, name: str, make: Maker) -> list[dict[str, Any]]:
    """For each layer, and all together, the overlap (IoU) of masks within blocks, and of random masks as large.

    ``sizes`` has the mean number of weights of a group's masks; pairs of two empty sets have no overlap and are in
    no mean.
    """
    names = [
        f"{group}-{place}-{number}"
        for group, blocks in groups.items()
        for place, block in enumerate(blocks)
        for number in range(len(block))
    ]
    embeds = torch.stack([one for blocks in groups.values() for block in blocks for one in block])
    masks = make(names, embeds)
    random = [RandomMask(like=mask).locate(subject, seed=number).mask for number, mask in enumerate(masks)]
    rows = []
    for layer in (None, *masks[0].masks):
        ours, control = ([_layer(mask, layer) for mask in some] for some in (masks, random))
        cells, sizes = {}, {}
        for group, places in _places(groups).items():
            cells[group] = mean_of_pairs([_overlaps([ours[row] for row in place]) for place in places])
            cells[f"random, {group}"] = mean_of_pairs([_overlaps([control[row] for row in place]) for place in places])
            sizes[group] = float(np.mean([ours[row].count() for place in places for row in place]))
        rows.append({"layer": layer or "all layers", "kind": name, "groups": cells, "sizes": sizes})
    return rows


def subspace_masks(subject: Subject, localizer: FFNSubspace, seed: int) -> Maker:
    """Masks of the localizer for single embeddings, from the first step alone, compared with the empty prompt."""
    first = replace(localizer, tau=1, base=("",))
    weights = matching_weights(subject.denoiser, first.modules)

    def norms(embeds: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        values = activations(subject, embeds, [seed] * len(embeds), list(weights))
        sizes = {path: _norms(hidden, first.normalize_tokens) for path, hidden in values.items()}
        return [{path: size[row : row + 1] for path, size in sizes.items()} for row in range(len(embeds))]

    def masks(names: Sequence[str], embeds: torch.Tensor) -> list[UnitMask]:
        (base,) = norms(encode_prompts(subject, [""]).cpu())
        return [first.mask(weights, one, base) for embed in embeds for one in norms(embed[None])]

    return masks


def _norms(hidden: torch.Tensor, normalize: bool) -> torch.Tensor:
    """Norm over tokens of each neuron (B, d_ff), of inner activations (B, tokens, d_ff); as FFNSubspace's."""
    tokens = torch.nn.functional.normalize(hidden, dim=2) if normalize else hidden
    return tokens.double().square().sum(dim=1).sqrt()


def activations(
    subject: Subject, embeds: torch.Tensor, seeds: Sequence[int], paths: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Layer -> activations (B, tokens, width) of embeddings (B, T, D), each with the noise of its seed, on the CPU.

    Neurons of feed-forwards, and outputs of every other layer, float32.
    """
    last = last_timestep(subject.pipe.scheduler)
    layers = {path: layer_at(subject.denoiser, path) for path in paths}

    def kept(path: str, given: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        layer = layers[path]
        values = layer.inputs(given) if re.search(FFN_OUTPUTS, path) else layer.outputs(answer)
        return values.flatten(1, -2).detach().float().cpu()

    def work(places: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        rows = embeds[list(places)].to(subject.device)
        with watched(subject.denoiser, paths, kept) as seen, torch.no_grad():
            predict(subject, first_noise(subject, [seeds[place] for place in places]), last, rows)
        return [{path: values[row] for path, values in seen.items()} for row in range(len(places))]

    found = in_batches(work, range(len(embeds)), BATCH)
    return {path: torch.stack([row[path] for row in found]) for path in paths}


def _affordable(subject: Subject, embeds: torch.Tensor, seed: int, count: int) -> list[list[str]]:
    """Feed-forward and value layers in groups whose activations of ``count`` embeddings take about BYTES at most."""
    found = matching_weights(subject.denoiser, f"{FFN_OUTPUTS}|{VALUES}")  # transformers have no value layers of text
    paths = sorted(found, key=lambda path: re.search(VALUES, path) is not None)
    groups: list[list[str]] = [[]]
    taken = 0
    for path, values in activations(subject, embeds, [seed], paths).items():
        size = 4 * count * values.numel()
        if groups[-1] and taken + size > BYTES:
            groups, taken = [*groups, []], 0
        groups[-1].append(path)
        taken += size
    return groups


def _places(groups: Groups) -> dict[str, list[list[int]]]:
    """Group -> blocks of row numbers, rows counted through all groups."""
    found: dict[str, list[list[int]]] = {}
    row = 0
    for name, blocks in groups.items():
        found[name] = []
        for block in blocks:
            found[name].append(list(range(row, row + len(block))))
            row += len(block)
    return found


def apart(values: torch.Tensor) -> NDArray[np.float64]:
    """Euclidean distances (n, n) of flattened values (n, ...)."""
    rows = values.flatten(1).float()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").double().numpy()


def _layer(mask: UnitMask, layer: str | None) -> UnitMask:
    return mask if layer is None else UnitMask({layer: mask.masks[layer]})


def _overlaps(masks: Sequence[UnitMask]) -> NDArray[np.float64]:
    """IoU (n, n) of masks; nan where both are empty."""
    found = np.full((len(masks), len(masks)), np.nan)
    for one in range(len(masks)):
        for two in range(one):
            iou = masks[one].iou(masks[two])
            found[one, two] = found[two, one] = np.nan if iou is None else iou
    return found
