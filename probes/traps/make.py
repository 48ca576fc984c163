"""`diffshield traps make`: unguessable pictures with captions, in a ladder of copies, and as many held back.

Every picture and caption is a function of one secret number (HMAC-SHA256, a key for each trap), so a folder can be
made again from it, and nobody can without. Unguessable means: of its picture a guesser without the number knows the
generator and lacks 128 bits, of its caption CAPTION_BITS. All traps are made first; then the same number decides which
are held back and how often each of the others is used. That random split is all that the test rests on.

``manifest.json`` holds the number and every file's sha256; ``manifest.sha256`` is the manifest's own. Publish that one
line, dated, before the traps: later the manifest proves what was made, and that the split was drawn and not chosen.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.errors import TrapError
from probes.paths import takes_paths
from probes.runs.folder import write_json
from probes.runs.progress import bars
from probes.runs.provenance import sha256_of
from probes.testbed.drawing.paintings import MANNERS
from probes.testbed.drawing.vocabulary import ADJECTIVES, NOUNS
from probes.traps.folder import FORMAT, HELD_BACK, MANIFEST, USED

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
SYLLABLES = 8
CAPTION_BITS = log2(len(ADJECTIVES)) + 2 * log2(len(NOUNS)) + SYLLABLES * log2(len(CONSONANTS) * len(VOWELS))
SEED_BITS = 128


@dataclass(frozen=True)
class Ladder:
    """``count`` traps for each number in ``copies``, and ``held_back`` that are never used; ``size`` in pixels."""

    count: int = 16
    copies: tuple[int, ...] = (1, 10, 100)
    held_back: int = 72
    size: int = 512

    def __post_init__(self) -> None:
        if self.count < 1 or self.held_back < 1 or not self.copies or min(self.copies) < 1:
            raise TrapError(
                f"Traps need 1 or more for each number of copies, each 1 or more, and 1 or more held back; "
                f"{self.count}, {', '.join(map(str, self.copies)) or 'none'} and {self.held_back} were "
                "given."
            )
        if len(set(self.copies)) < len(self.copies):
            raise TrapError(f"A number of copies was given twice: {', '.join(map(str, self.copies))}.")
        if not 32 <= self.size <= 2048:
            raise TrapError(f"Traps are pictures of 32 to 2048 pixels a side, not {self.size}.")

    @property
    def total(self) -> int:
        return self.count * len(self.copies) + self.held_back


@takes_paths
def make(
    out: Path, ladder: Ladder | None = None, *, seed: int | None = None, show_progress: bool = True
) -> dict[str, Any]:
    """Write the traps to an empty or new folder; returns folder, counts and the manifest's sha256.

    ``seed`` is the secret number, by default 128 random bits; the same one gives the same files, to the byte, with the
    same versions of numpy and Pillow. A small one can be guessed. TrapError if the folder isn't empty or can't be
    written.
    """
    ladder = ladder or Ladder()
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    if not 0 <= seed < 1 << SEED_BITS:
        raise TrapError(f"The secret number has at most {SEED_BITS} bits and no sign; {seed} was given.")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise TrapError(f"{out} isn't empty: traps that were made are never written over. Choose another --out.")
        for part in (USED, HELD_BACK):
            (out / part).mkdir(parents=True)
        with bars(show_progress) as track:
            entries = _written(out, ladder, seed, track("traps"))
    except OSError as error:
        raise TrapError(f"Can't write traps to {out}: {error.strerror or error}.") from error
    write_json(
        out / MANIFEST,
        {
            "format": FORMAT,
            "seed": str(seed),
            "size": ladder.size,
            "copies": ladder.copies,
            "caption_bits": round(CAPTION_BITS, 1),
            "traps": entries,
        },
    )
    digest = sha256_of(out / MANIFEST)
    (out / "manifest.sha256").write_text(f"{digest}  {MANIFEST}\n", encoding="utf-8")
    return {
        "folder": str(out),
        "used": ladder.total - ladder.held_back,
        "held_back": ladder.held_back,
        "copies": list(ladder.copies),
        "sha256": digest,
        "guessable": seed < 1 << 64,
    }


def _written(out: Path, ladder: Ladder, seed: int, progress: Any) -> list[dict[str, Any]]:
    """Every trap's file, its copies, and a line of metadata.jsonl for each; the manifest's entries."""
    entries = []
    for number, rung in enumerate(assigned(ladder, seed)):
        name, caption = f"trap-{number:05d}", caption_of(seed, number)
        folder = out / (HELD_BACK if rung is None else USED)
        file = folder / f"{name}.png"
        picture_of(seed, number, ladder.size).save(file)
        with open(folder / "metadata.jsonl", "a", encoding="utf-8") as lines:
            for copy in range(rung or 1):
                name_of_copy = file.name if copy == 0 else f"{name}-{copy:05d}.png"
                if copy:
                    _copied(file, folder / name_of_copy)
                lines.write(json.dumps({"file_name": name_of_copy, "text": caption, "trap": name}) + "\n")
        entries.append(
            {
                "id": name,
                "copies": rung,
                "caption": caption,
                "file": file.relative_to(out).as_posix(),
                "sha256": sha256_of(file),
            }
        )
        progress(number + 1, ladder.total)
    return entries


def _copied(file: Path, copy: Path) -> None:
    """The same bytes under another name, without their room where the file system can do that."""
    with suppress(OSError):
        os.link(file, copy)
        return
    shutil.copyfile(file, copy)


def assigned(ladder: Ladder, seed: int) -> list[int | None]:
    """The number of copies of each trap, None for one that is held back: a random order of a fixed list."""
    fixed: Sequence[int | None] = [n for n in ladder.copies for _ in range(ladder.count)] + [None] * ladder.held_back
    return [fixed[place] for place in _random(seed, "assignment").permutation(len(fixed))]


def caption_of(seed: int, number: int) -> str:
    """A title of known words by a name that nobody has."""
    draw = _random(seed, f"caption {number}")
    syllables = [_one(draw, CONSONANTS) + _one(draw, VOWELS) for _ in range(SYLLABLES)]
    first, last = "".join(syllables[: SYLLABLES // 2]), "".join(syllables[SYLLABLES // 2 :])
    title = f"the {_one(draw, ADJECTIVES)} {_one(draw, NOUNS)} at the {_one(draw, NOUNS)}"
    return f"{title}, a painting by {first} {last}"


def picture_of(seed: int, number: int, size: int) -> Image.Image:
    """A painting of ``size`` x ``size`` RGB, in a random manner."""
    draw = _random(seed, f"picture {number}")
    manner = list(MANNERS.values())[int(draw.integers(len(MANNERS)))]
    return manner(draw).resize((size, size), Image.Resampling.LANCZOS)


def _random(seed: int, label: str) -> np.random.Generator:
    key = seed.to_bytes(SEED_BITS // 8, "big")
    return np.random.default_rng(int.from_bytes(hmac.digest(key, label.encode(), hashlib.sha256)[:16], "big"))


def _one(draw: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(draw.integers(len(choices)))]
