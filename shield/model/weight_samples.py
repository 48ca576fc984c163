"""A few values of every weight that acts, wherever it is kept: what a model is known by.

Reading all of a model takes about a second a gigabyte; SAMPLES values of each tensor take a tenth of a second. Weights
are found in parameters, persistent buffers, what accelerate and diffusers keep aside while offloading, the parts of
quantized tensors, and what quantized layers save beside their parameters. Of adapters (peft) those count that act: a
LoRA that is switched off, or was merged, leaves the names and values of the base.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shield.errors import WeightsError
from shield.model_names import Samples

SAMPLES = 256
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
GOLDEN = 0.6180339887498949
FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""What diffusers' `fuse_qkv_projections` adds to an attention layer, and the layers whose rows it holds."""


def samples_of(modules: Mapping[str, nn.Module], rows: Mapping[int, int] | None = None) -> Samples | None:
    """Samples of these modules together; None when they hold no weights.

    `rows`: of tensors with these ids only so many rows count (an embedding table without the words learned later).
    Raises WeightsError for weights whose values are nowhere.
    """
    digest, floats = sha256(), []
    found = [(f"{role} {name}", tensor) for role, module in modules.items() for name, tensor in weights_of(module)]
    for name, tensor in sorted(found, key=lambda one: one[0]):
        counted = tensor[: (rows or {}).get(id(tensor), len(tensor))] if tensor.dim() else tensor
        digest.update(f"{name} {tuple(counted.shape)}\n".encode())
        if counted.dtype in FLOATS:
            floats += [counted] if counted.numel() else []
        else:
            digest.update(f"{counted.dtype} ".encode() + _bytes(_taken(counted)))
    for role, module in modules.items():
        digest.update(f"{role} {switches_of(module)}\n".encode())
    if not found:
        return None
    return Samples.of(digest.hexdigest(), *_numbers(floats))


def weights_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """(name, tensor) of everything that acts, names as without adapters and compilation."""
    found: list[tuple[str, Tensor]] = []
    _walk(module, "", found)
    return found


def _walk(module: Any, path: str, found: list[tuple[str, Tensor]]) -> None:
    if isinstance(vars(module).get("_modules", {}).get("_orig_mod"), nn.Module):  # compiled
        return _walk(module._orig_mod, path, found)
    found += _own(module, path)
    groups = getattr(module, "adapter_layer_names", None) if _is_adapted(module) else None
    idle = _fused(module, path, found)
    for name, child in module.named_children():
        if name in idle:
            continue
        if groups is None:
            _walk(child, f"{path}{name}.", found)
        elif name == "base_layer":
            _walk(child, path, found)
        elif name in groups:
            for number, adapter in enumerate(_acting(module)):
                part = child[adapter] if adapter in child else None
                if isinstance(part, nn.Module):
                    _walk(part, f"{path}{name}.{number}.", found)
                elif part is not None:
                    found.append((f"{path}{name}.{number}", part))
    return None


def _fused(module: nn.Module, path: str, found: list[tuple[str, Tensor]]) -> set[str]:
    """Adds fused projections that act, under the names of the layers they stand for; returns the children that don't.

    `unfuse_qkv_projections` of a UNet leaves the fused layers where they were and takes its processors back.
    """
    idle: set[str] = set()
    for name, parts in FUSED.items():
        fused = getattr(module, name, None)
        if not isinstance(fused, nn.Module) or not all(isinstance(getattr(module, p, None), nn.Module) for p in parts):
            continue
        takes_back = hasattr(module, "unfuse_projections")  # then the layers go when they no longer act
        if not takes_back and "Fused" not in type(getattr(module, "processor", None)).__name__:
            idle.add(name)
            continue
        idle |= {name, *parts}
        sizes = [len(getattr(module, part).weight) for part in parts]
        for own, tensor in fused.named_parameters(recurse=False):
            rows = held(fused, own, tensor).split(sizes)
            found += [(f"{path}{part}.{own}", piece) for part, piece in zip(parts, rows, strict=True)]
    return idle


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(type(module), "adapter_layer_names")


def _acting(layer: Any) -> list[str]:
    """The adapters of a peft layer that add to its output beside its base."""
    if layer.disable_adapters or layer.merged:
        return []
    scales = getattr(layer, "scaling", {})
    return [name for name in layer.active_adapters if scales.get(name, 1.0)]


def _own(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors that this module itself holds, the parts of those that are quantized."""
    for name, parameter in module.named_parameters(recurse=False):
        yield from weight_parts(f"{path}{name}", held(module, name, parameter))
    passing = getattr(module, "_non_persistent_buffers_set", ())
    for name, buffer in module.named_buffers(recurse=False):
        if name not in passing:
            yield from weight_parts(f"{path}{name}", held(module, name, buffer))
    if type(module)._save_to_state_dict is not nn.Module._save_to_state_dict:
        yield from saved_beside(module, path)


def saved_beside(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    """What a quantized layer saves beside its parameters."""
    saved: dict[str, Any] = {}
    module._save_to_state_dict(saved, "", True)
    for name, value in sorted(saved.items()):
        parts = value if isinstance(value, tuple | list) else [value]
        for number, part in enumerate(parts):
            if isinstance(part, Tensor) and name not in module._parameters and name not in module._buffers:
                yield from weight_parts(f"{path}{name}.{number}", part)


def weight_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.is_quantized:
        yield f"{name}.int_repr", tensor.int_repr()
        by_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scale = tensor.q_per_channel_scales() if by_channel else torch.tensor(tensor.q_scale())
        yield f"{name}.scale", scale
    elif hasattr(tensor, "__tensor_flatten__"):
        for part in tensor.__tensor_flatten__()[0]:
            yield from weight_parts(f"{name}.{type(tensor).__name__}.{part}", getattr(tensor, part))
    else:
        yield name, tensor
        absmax = getattr(getattr(tensor, "quant_state", None), "absmax", None)  # bitsandbytes
        if isinstance(absmax, Tensor):
            yield f"{name}.absmax", absmax


def held(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """The tensor, or what is kept of it while it is moved in only to run. Raises WeightsError."""
    group = on_disk(module, tensor)
    if group is not None:
        from safetensors import safe_open

        with safe_open(group.safetensors_file_path, framework="pt") as file:
            return file.get_tensor(group.tensor_to_key[tensor])
    if not tensor.is_meta:
        return tensor
    kept = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    if kept is None:
        raise WeightsError(f"The values of {name} aren't loaded (meta device), so the model can't be identified.")
    return kept[name]


def hooks_of(module: nn.Module) -> Iterable[Any]:
    """diffusers' own hooks on a module."""
    registry = vars(module).get("_diffusers_hook")
    return () if registry is None else registry.hooks.values()


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor itself holds its values, one after the other."""
    return (
        not (
            tensor.is_meta
            or tensor.is_quantized
            or hasattr(type(tensor), "__tensor_flatten__")
            or hasattr(tensor, "quant_state")
        )
        and tensor.layout == torch.strided
    )


def on_disk(module: nn.Module, tensor: Tensor) -> Any:
    """The group of diffusers' group offloading whose file holds this tensor; None where it isn't on disk."""
    for hook in hooks_of(module):
        group: Any = getattr(hook, "group", None)
        file = getattr(group, "safetensors_file_path", None)
        if file is not None and tensor in group.tensor_to_key and Path(file).exists():
            return group
    return None


def switches_of(module: nn.Module) -> list[tuple[Any, ...]]:
    """What moves the output and is no weight: scales of adapters and IP-Adapters, FreeU."""
    return [read for part in switched(module) for read in switches_read(part)]


def switched(module: nn.Module) -> list[nn.Module]:
    """The modules that have such switches."""
    blocks = getattr(getattr(module, "_orig_mod", module), "up_blocks", ())
    others = (m for m in module.modules() if _is_adapted(m) or isinstance(vars(m).get("scale"), list))
    return [*blocks, *others]


def switches_read(part: Any) -> list[tuple[Any, ...]]:
    if _is_adapted(part):
        scales = getattr(part, "scaling", {})
        found = tuple(scales.get(name, 1.0) for name in _acting(part))
        return [("adapters", *found)] if found else []
    freeu = tuple(getattr(part, name, None) for name in ("s1", "s2", "b1", "b2"))
    scale = vars(part).get("scale")
    ip_adapter = isinstance(scale, list) and (("scale", *map(repr, scale)),)
    return [*([("freeu", *freeu)] if any(v is not None for v in freeu) else []), *(ip_adapter or ())]


def _numbers(floats: list[Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, sums, lengths) of these tensors, as Samples has them."""
    with torch.no_grad():
        taken = [_taken(tensor) for tensor in floats]
        whole = torch.cat([torch.empty(0), *_on_cpu(taken)])
    counts = np.array([len(one) for one in taken], np.int64)
    if not len(counts):
        return np.empty((0, 2), np.uint16), np.empty(0, np.float32), np.empty(0, np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    values = whole.numpy().astype(np.float64)
    signs = np.where((np.arange(len(values)) - np.repeat(starts, counts)) % 2, -1.0, 1.0)
    lengths = np.sqrt(np.add.reduceat(values**2, starts))
    sums = np.add.reduceat(values * signs, starts) / np.maximum(lengths, 1e-30)
    bits = whole.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return np.stack([bits[starts], bits[starts + counts // 2]], axis=1), sums, lengths


def _on_cpu(taken: list[Tensor]) -> list[Tensor]:
    """Float32 on the CPU, moved together where they lie on one device in one precision."""
    if len({(one.device, one.dtype) for one in taken}) != 1:
        return [one.float().cpu() for one in taken]
    return [torch.cat(taken).float().cpu()]


def _taken(tensor: Tensor) -> Tensor:
    """Up to SAMPLES values of a tensor, from the same places whatever its precision and memory layout."""
    return torch.take(tensor.detach(), _places(tensor.numel(), tensor.device))


@cache
def _places(size: int, device: torch.device) -> Tensor:
    """Spread by the golden ratio, so that no row or column of a matrix is preferred."""
    count = min(size, SAMPLES)
    spread = np.arange(size) if size <= SAMPLES else ((np.arange(count) * GOLDEN) % 1.0 * size).astype(np.int64)
    return torch.from_numpy(spread.astype(np.int64)).to(device)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
