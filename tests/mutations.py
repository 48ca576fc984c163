"""Files that are nearly right: bytes flipped, cut, repeated or put in, JSON with a value replaced."""

import copy
import json
import random
import struct

NASTY = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"'" * 3,
    b"[" * 3000,
    b"{" * 3000,
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"inf",
    b"[]",
    b"{}",
    b"=",
    b",",
    b";\t",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\x92\xa5",
    b"../" * 9,
    b"%s%n",
    b"0x",
    b"1979-13-41",
    b"\x7f",
    b"a" * 200_000,
]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "../x",
    "a\0b",
    "²",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": []}},
    "9" * 50,
    list(range(40)),
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four things done to them; sometimes bytes that have nothing to do with them."""
    if draw.random() < 0.06:
        return draw.randbytes(draw.choice([0, 1, 7, 8, 9, 60, 900]))
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.randint(0, len(data)) for _ in range(2))
        data = draw.choice(WAYS)(data, at, min(end, at + draw.choice([1, 4, 40, 4000])), draw)
    return data[:400_000]


def _flipped(data, at, end, draw):
    return data[:at] + bytes(b ^ 1 << draw.randrange(8) for b in data[at : at + 1]) + data[at + 1 :]


def _overwritten(data, at, end, draw):
    number = draw.choice([0, 1, 0x7F, 0x80, 0xFF, 2**16, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1])
    written = struct.pack(draw.choice("<>") + "Q", number)[: draw.choice([1, 2, 4, 8])]
    return data[:at] + written + data[at + len(written) :]


WAYS = [
    _flipped,
    _flipped,
    _overwritten,
    _overwritten,
    lambda data, at, end, draw: data[:at] + data[end:],
    lambda data, at, end, draw: data[:at],
    lambda data, at, end, draw: data[:end] + data[at:],
    lambda data, at, end, draw: data[:at] + draw.choice(NASTY) + data[at:],
    lambda data, at, end, draw: data[:at] + draw.choice(NASTY) + data[end:],
    lambda data, at, end, draw: data[:at] + draw.randbytes(end - at) + data[end:],
]


def mutated_json(value, draw: random.Random) -> bytes:
    """The value as JSON with one or two of its parts replaced, removed or repeated; half of the time bytes too."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 2)):
        value = _changed(value, draw)
    data = json.dumps(value).encode()
    return mutated(data, draw) if draw.random() < 0.3 else data


def _changed(value, draw):
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or draw.random() < 0.08:
        return copy.deepcopy(draw.choice(VALUES))
    key, what = draw.choice(keys), draw.random()
    if what < 0.15:
        del value[key]
    elif what < 0.25 and isinstance(value, dict):
        value[draw.choice(["", "x", "id", "format"])] = value[key]
    elif what < 0.3 and isinstance(value, list):
        value.append(copy.deepcopy(value[key]))
    else:
        value[key] = _changed(value[key], draw)
    return value
