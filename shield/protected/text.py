"""A text that is screened, with what its checks ask for again and again worked out once: a screen's time grows with the
length of a text, not with its square.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cached_property
from itertools import accumulate

from shield.protected.descriptions import Span, content
from shield.protected.folding import Folded, Reading, folded
from shield.protected.lookalikes import JOINER, is_invisible
from shield.protected.vocabulary import WORDS, parts

_ENDS = ".!?:\n"  # of sentences


class Text:
    """What a screen asks about `text`, by places in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._folds: dict[Reading, Folded] = {}

    def fold(self, reading: Reading) -> Folded:
        """The text folded, in one of the three readings."""
        if reading not in self._folds:
            self._folds[reading] = folded(self.text, reading)
        return self._folds[reading]

    @cached_property
    def content(self) -> dict[str, Span]:
        """The places of its content words, by their stems; what no one sees may part words or stand within them."""
        if not any(map(is_invisible, self.text)):
            return content(self.text)
        parted, whole = ("".join(sign if is_invisible(c) else c for c in self.text) for sign in (" ", JOINER))
        return {**content(parted), **content(whole)}

    def phrases(self, start: int, end: int, widest: int) -> set[str]:
        """The letters of the words at start..end, with up to `widest` words more on each side."""
        starts, ends, edges = self._parts
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        if first >= last:
            return set()
        fold = self.fold("looks").text
        befores, afters = range(max(0, first - widest), first + 1), range(last - 1, min(len(ends), last + widest))
        return {fold[edges[before][0] : edges[after][1]] for before in befores for after in afters}

    def has_others_in_small_letters(self, start: int, end: int) -> bool | None:
        """Whether a word of four letters and more beside start..end is in small letters; None without such words."""
        starts, ends, long, small = self._longer
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        last = max(first, last)
        others = long[-1] - (long[last] - long[first])
        return small[-1] > small[last] - small[first] if others else None

    def begins_sentence(self, place: int) -> bool:
        """Whether nothing but signs stands between `place` and the end of another sentence or the beginning."""
        start = place
        while start and not self.text[start - 1].isalnum():
            start -= 1
        return not start or any(c in _ENDS for c in self.text[start:place])

    @cached_property
    def _parts(self) -> tuple[list[int], list[int], list[Span]]:
        """Where words begin and end, in the text and in its looks."""
        places = self.fold("looks").places
        spans = list(parts(self.text))
        edges = [(bisect_left(places, start), bisect_left(places, end)) for start, end in spans]
        return [start for start, _ in spans], [end for _, end in spans], edges

    @cached_property
    def _longer(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Where the text's pieces between spaces begin and end, and how many before each are words of four letters and
        more, and such words in small letters.
        """
        found = list(WORDS.finditer(self.text))
        words = [piece.group() for piece in found]

        def before(counts: Callable[[str], bool]) -> list[int]:
            return list(accumulate((len(w) > 3 and w.isalpha() and counts(w) for w in words), initial=0))

        return [f.start() for f in found], [f.end() for f in found], before(lambda _: True), before(str.islower)
