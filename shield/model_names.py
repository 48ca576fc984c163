"""Names of models, and what each is known by: a few values of every tensor. Needs no torch.

In another precision values are rounded otherwise, and no hash can be the same for all of them: a value near a boundary
falls to either side. So values are compared, within what rounding does, and a model that agrees with one that has a
name gets that name. Files that name a model (thresholds, masks, runs) keep its values, and introduce it when read.
"""

import hashlib
from base64 import b64decode, b64encode
from dataclasses import dataclass

import numpy as np

MODELS_KEPT = 512
ROUNDING = 0.012  # 6 sigma of a sum's change under float16, bfloat16 and the file's own rounding
TINY = 2.0**-24  # float16 knows nothing finer
EACH = 7  # bytes a tensor


@dataclass(frozen=True)
class Samples:
    """`structure`: hash of names, shapes, switches and everything that is no number of full precision. For each of T
    tensors (in order of names) `values` has two of its values, (T, 2), as bfloat16's bits; `sums` (T,) float16 the sum
    of n samples with alternating signs, divided by the square root of their squares' sum, which lies from
    2^exponents / 2 to 2^exponents, (T,) int8. `packed` is all three as bytes.
    """

    structure: str
    packed: bytes

    @classmethod
    def of(cls, structure: str, values: np.ndarray, sums: np.ndarray, lengths: np.ndarray) -> "Samples":
        """`values` are bits (T, 2); `sums` and `lengths` (T,) before rounding."""
        exponents = np.clip(np.frexp(lengths)[1], -127, 127).astype(np.int8)
        return cls(structure, values.astype("<u2").tobytes() + sums.astype("<f2").tobytes() + exponents.tobytes())

    def agrees(self, other: "Samples", samples: int = 256) -> bool:
        """Whether both can be one model, each in float32, float16 or bfloat16.

        Two roundings of one value are the same bfloat16 number or neighbors. A sum of n values, divided by their
        length, moves by 2^-9 / sqrt(3) for one sigma, and float16 can't hold what is smaller than TINY.
        """
        if self == other:
            return True
        if self.structure != other.structure or len(self.packed) != len(other.packed):
            return False
        (mine, sums, exponents), (theirs, others, _) = self._parts(), other._parts()
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(_order(mine) - _order(theirs)) <= 1
            near |= np.abs(_floats(mine) - _floats(theirs)) <= TINY
            slack = ROUNDING + 8.0 * TINY * np.sqrt(samples) * 0.5 ** exponents.astype(np.float64)
            return bool(near.all() and (np.abs(sums - others) <= slack).all())

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = len(self.packed) // EACH
        values = np.frombuffer(self.packed, "<u2", 2 * count).reshape(count, 2)
        sums = np.frombuffer(self.packed, "<f2", count, 4 * count).astype(np.float32)
        return values, sums, np.frombuffer(self.packed, np.int8, count, 6 * count)


@dataclass
class Model:
    """A model that was met: its name, and what it is known by. `full`: the hash of all its values, once asked for."""

    name: str
    samples: Samples
    full: str | None = None


_met: dict[str, Model] = {}  # by name, and by the hash of all values
_exact: dict[Samples, Model] = {}
_full: set[str] = set()


def named(samples: Samples) -> Model:
    """The model that has these values, in whatever precision; a new one gets their hash as its name."""
    found = _exact.get(samples) or next((one for one in _met.values() if samples.agrees(one.samples)), None)
    if found is None:
        found = Model(hashlib.sha256(samples.structure.encode() + samples.packed).hexdigest(), samples)
        _keep(found.name, found)
    if samples not in _exact:
        _exact[samples] = found
        while len(_exact) > MODELS_KEPT:
            _exact.pop(next(iter(_exact)))
    return found


def introduce(name: str, values: str | None) -> None:
    """Makes a model known by the name and the values that a file has of it. Without values the name is that of an older
    version: the hash of all values. Raises ValueError for values that can't be read.
    """
    if values is None:
        _full.add(name)
        return
    structure, _, packed = values.partition(":")
    samples = Samples(structure, b64decode(packed, validate=True))
    if len(samples.packed) % EACH:
        raise ValueError("a model's values are cut off")
    found = next((one for one in _met.values() if samples.agrees(one.samples)), None)
    _keep(name, found or Model(name, samples))


def asked_in_full(name: str | None = None) -> bool:
    """Whether a file names a model (this one) by the hash of all its values."""
    return bool(_full) if name is None else name in _full


def known_in_full(model: Model, full: str) -> None:
    """Remembers the hash of all the model's values."""
    model.full = full
    if full in _full:
        _keep(full, model)


def values_of(name: str) -> str | None:
    """What a file keeps beside a model's name, so that the model is known again; None for one that wasn't met."""
    model = _met.get(name)
    return None if model is None else f"{model.samples.structure}:{b64encode(model.samples.packed).decode()}"


def canonical(name: str | None) -> str | None:
    """The name that a model is called by here, whichever of its names is given."""
    return _met[name].name if name in _met else name


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two names are those of one model."""
    return canonical(one) == canonical(other)


def _keep(name: str, model: Model) -> None:
    _met[name] = model
    while len(_met) > MODELS_KEPT:
        _met.pop(next(iter(_met)))


def _order(bits: np.ndarray) -> np.ndarray:
    """bfloat16's bits as integers that count the numbers between them; +0 and -0 are one."""
    signed = bits.astype(np.int32)
    return np.where(signed & 0x8000, -(signed & 0x7FFF), signed)


def _floats(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
