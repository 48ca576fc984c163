"""Draws benign prompts from lists and patterns, the same ones on every machine and with every version of Python.

    python -m shield.benign.grammar   # writes generated.toml anew

Choices come from sha256, not from a random generator, so that nothing but grammar.toml decides what is drawn. A prompt
that shares more than two fifths of its words with an earlier one is left out.
"""

import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LISTS, GENERATED = FOLDER / "grammar.toml", FOLDER / "generated.toml"
EACH = 140  # prompts of each kind
ALIKE = 0.4
_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")
_SLOT = re.compile(r"{(\w+)}")
_SMALL = frozenset("a an the of on with in at and by to from it is as for".split())


def generated(each: int = EACH) -> dict[str, list[str]]:
    """This many prompts of each kind in grammar.toml, in the order in which they are drawn."""
    lists = tomllib.loads(LISTS.read_text(encoding="utf-8"))
    shared = lists.pop("shared")
    return {kind: _drawn(kind, shared | own, each) for kind, own in lists.items()}


def content_words(prompt: str) -> frozenset[str]:
    """The words of a prompt, in small letters and without those that stand in every prompt."""
    return frozenset(re.findall(r"[^\W_]+", prompt.lower())) - _SMALL


def likeness(words: frozenset[str], others: frozenset[str]) -> float:
    """The share (0..1) of two prompts' words that they have in common (Jaccard)."""
    return len(words & others) / len(words | others) if words or others else 1.0


def _drawn(kind: str, lists: dict[str, list[str]], count: int) -> list[str]:
    prompts: list[str] = []
    words: list[frozenset[str]] = []
    place = 0
    while len(prompts) < count:
        pattern = lists["patterns"][place % len(lists["patterns"])]
        prompt = _filled(pattern, lists, f"{kind} {place}")
        own = content_words(prompt)
        if all(likeness(own, other) <= ALIKE for other in words):
            prompts.append(prompt)
            words.append(own)
        place += 1
    return prompts


def _filled(pattern: str, lists: dict[str, list[str]], seed: str) -> str:
    """The pattern with an entry in each slot, and "an" for "a" where it has to be."""

    def entry(slot: Any) -> str:
        entries = lists[slot[1]]
        return entries[int(sha256(f"{seed} {slot[1]}".encode()).hexdigest(), 16) % len(entries)]

    return _VOWEL.sub(r"\1n ", _SLOT.sub(entry, pattern))


def as_toml(prompts: dict[str, list[str]]) -> str:
    """What generated.toml holds: for each kind a text with one prompt a line."""
    head = "# Benign prompts drawn from grammar.toml: python -m shield.benign.grammar. CC0 1.0.\n"
    return head + "".join(f"\n{kind} = '''\n" + "\n".join(texts) + "\n'''\n" for kind, texts in prompts.items())


if __name__ == "__main__":
    GENERATED.write_text(as_toml(generated()), encoding="utf-8")
