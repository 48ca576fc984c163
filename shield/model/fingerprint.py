"""Which model is this? One name for it in every precision, recognized by a few of its values (shield/model_names.py).

Names in files of older versions are hashes of all values. Once such a file was read, models without adapters are
hashed like that once, too.
"""

import hashlib
import os
from collections.abc import Mapping
from ctypes import c_uint8, c_uint64
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from shield import model_names
from shield.model.weight_samples import (
    held,
    hooks_of,
    is_plain,
    on_disk,
    samples_of,
    saved_beside,
    switched,
    switches_of,
    switches_read,
    weight_parts,
)

PROBES = 2


def model_sha256(module: nn.Module) -> str:
    """The name of a model: 64 hexadecimal digits, the same in float32, float16 and bfloat16, offloaded or compiled.

    Other weights, adapters that act, their scales, and FreeU change it. What holds no weights (an engine of a compiler)
    can't be known again and has another name every time. Raises WeightsError for weights whose values are nowhere.
    """
    return models_sha256({"": module})


def models_sha256(modules: Mapping[str, nn.Module], rows: Mapping[int, int] | None = None) -> str:
    """One name for several modules together; `rows` as for samples_of."""
    samples = samples_of(modules, rows)
    if samples is None:
        return hashlib.sha256(uuid4().bytes).hexdigest()
    model = model_names.named(samples)
    alone = next(iter(modules.values())) if len(modules) == 1 else None
    if alone is not None and model_names.asked_in_full() and not switches_of(alone):
        model_names.known_in_full(model, model.full or full_sha256(alone))
    return model.name


def full_sha256(module: nn.Module) -> str:
    """Hexadecimal sha256 over the names, shapes and bfloat16 values of all parameters: about a second a gigabyte.

    A float16 checkpoint has one in float32, float16 and bfloat16. Raises WeightsError.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name.removeprefix('_orig_mod.')} {tuple(parameter.shape)}\n".encode())
        owner, _, own = name.rpartition(".")
        values = held(module.get_submodule(owner), own, parameter).detach().to(torch.bfloat16).cpu().contiguous()
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


class Recognized:
    """The name of some modules, found anew only when they may have changed: a look at every call, a few milliseconds.

    What is looked at: which modules and tensors these are, the tensors' versions, the switches, and PROBES values of
    each tensor, which show writes that no version counts (`.data`).
    """

    def __init__(self) -> None:
        self._state: Any = None
        self._slots: list[tuple[Any, str, Any]] = []
        self._modules: list[nn.Module] = []
        self._name = ""

    def __deepcopy__(self, memo: Any) -> "Recognized":
        return type(self)()  # a copy's tensors count their versions from 0

    def __reduce__(self) -> Any:
        return type(self), ()

    def name(self, modules: Mapping[str, nn.Module], rows: Mapping[int, int] | None = None) -> str:
        """As models_sha256."""
        if not self._is_built_as_before(list(modules.values())):
            self._build(list(modules.values()))
        state = [*self._looked(), sorted(modules), sorted((rows or {}).items()), model_names.asked_in_full()]
        if state != self._state:
            self._name, self._state = models_sha256(modules, rows), state
        return self._name

    def _is_built_as_before(self, modules: list[nn.Module]) -> bool:
        if len(modules) != len(self._modules) or any(a is not b for a, b in zip(modules, self._modules, strict=True)):
            return False
        if sum(map(len, self._holders)) != self._count:
            return False
        return all(holder.get(key) is value for holder, key, value in self._slots)

    def _build(self, modules: list[nn.Module]) -> None:
        parts = [part for module in modules for part in module.modules()]
        self._state, self._modules = None, modules
        self._holders = [vars(p)[kind] for p in parts for kind in ("_modules", "_parameters", "_buffers")]
        self._count = sum(map(len, self._holders))
        slots = [(holder, key, value) for holder in self._holders for key, value in holder.items()]
        self._slots = [one for one in slots if not getattr(one[2], "is_meta", False)]  # made anew by each offload
        self._switched = [part for module in modules for part in switched(module)]
        tensors = [
            (part, key, value)
            for part in parts
            for kind in ("_parameters", "_buffers")
            for key, value in vars(part)[kind].items()
            if value is not None
        ]
        aside = [is_plain(tensor) is False or on_disk(part, tensor) is not None for part, _, tensor in tensors]
        self._plain = _Probes([tensor for (_, _, tensor), kept in zip(tensors, aside, strict=True) if not kept])
        self._aside = [one for one, kept in zip(tensors, aside, strict=True) if kept]
        self._beside = [p for p in parts if type(p)._save_to_state_dict is not nn.Module._save_to_state_dict]
        groups = [hook.group for part in parts for hook in hooks_of(part) if hasattr(hook, "group")]
        files = {getattr(group, "safetensors_file_path", None) for group in groups} - {None}
        self._files = sorted(file for file in files if file is not None)

    def _looked(self) -> list[Any]:
        kept = [held(part, key, tensor) for part, key, tensor in self._aside if on_disk(part, tensor) is None]
        parts = [inner for tensor in kept for _, inner in weight_parts("", tensor)]
        parts += [tensor for part in self._beside for _, tensor in saved_beside(part, "")]
        return [
            _versions(self._plain.tensors),
            self._plain.read(),
            _Probes(parts).read(),
            [switches_read(part) for part in self._switched],
            [(file, os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in self._files if os.path.exists(file)],
        ]


def _versions(tensors: list[Tensor]) -> list[int]:
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:  # tensors of inference mode count none
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


class _Probes:
    """A few values of each tensor. On a CPU they are read where they lie, which is faster."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self._memory: list[tuple[int, int]] | None = None
        self._lying: list[Any] = []
        self._others: list[Tensor] = []

    def read(self) -> list[Any]:
        """[values on the CPU, bytes by precision of the others]; tensors whose memory was exchanged are read anew."""
        memory = [(tensor.data_ptr(), tensor.numel()) for tensor in self.tensors]
        if memory != self._memory:
            self._memory, self._lying, self._others = memory, [], []
            for tensor in self.tensors:
                if tensor.is_cpu and tensor.is_contiguous():
                    self._lying += _places(tensor)
                else:
                    self._others.append(tensor)
        return [[place.value for place in self._lying], _gathered(self._others)]


def _places(tensor: Tensor) -> list[Any]:
    """Where the first bytes and some in the middle lie."""
    start, size = tensor.data_ptr(), tensor.nbytes
    if size < 8:
        return [c_uint8.from_address(start + byte) for byte in range(size)]
    return [c_uint64.from_address(start), c_uint64.from_address(start + (size - 8) // 2)]


@torch.no_grad()
def _gathered(tensors: list[Tensor]) -> list[Any]:
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        size = tensor.numel()
        few = tensor.as_strided((PROBES,), (size // PROBES,)) if size >= PROBES else tensor.reshape(-1)
        groups.setdefault((tensor.dtype, tensor.device), []).append(few)
    return [
        (str(dtype), torch.cat(few).cpu().view(torch.uint8).numpy().tobytes()) for (dtype, _), few in groups.items()
    ]
