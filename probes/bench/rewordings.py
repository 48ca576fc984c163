"""Mild rewordings of captions, as templates: which of them still bring a memorized work out, and which are seen?

A template is a sentence with the parts of a caption in braces: {caption} the whole, {title}, {medium}, {artist} and
{surname}. DEV is for choosing (points of the schedule, statistics, combinations), HELDOUT for reporting; they share no
template. To extend the bench add lines to either; `kind` groups them in tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shield.errors import BadRequestError

_PATTERNS = (
    re.compile(r"(?P<title>[^,]+), an? (?P<medium>.+?) by (?P<artist>.+)"),
    re.compile(r"(?P<title>\w+ \w+) (?P<medium>.+) by (?P<artist>.+)"),
)


@dataclass(frozen=True)
class Rewording:
    """One template, and what it does to a caption in a word."""

    kind: str
    template: str

    def of(self, caption: str) -> str:
        """The caption in these words. Raises BadRequestError for a caption without title, medium and artist."""
        found = next((match for pattern in _PATTERNS if (match := pattern.fullmatch(caption))), None)
        if found is None:
            raise BadRequestError(f"A caption reads TITLE, a MEDIUM by ARTIST; {caption!r} was given.")
        parts = found.groupdict()
        return self.template.format(caption=caption, surname=parts["artist"].split()[-1], **parts)


DEV = (
    Rewording("place", "{caption}, on a wall in a museum"),
    Rewording("synonym", "{title}, a canvas by {artist}"),
    Rewording("order", "a {medium} by {artist}, {title}"),
    Rewording("frame", "a photo of {caption}"),
    Rewording("omission", "{title} by {artist}"),
    Rewording("omission", "{title}, a {medium}"),
    Rewording("omission", "{title}, a {medium} by {surname}"),
    Rewording("filler", "{title}, a lovely old {medium} by {artist}"),
    Rewording("quality", "{caption}, highly detailed"),
    Rewording("frame", "an oil {medium} called {title} by {artist}"),
)
HELDOUT = (
    Rewording("place", "{caption}, framed, in a gallery"),
    Rewording("synonym", "{title}, a picture by {artist}"),
    Rewording("order", "{artist}, {title}, {medium}"),
    Rewording("frame", "an image of {caption}"),
    Rewording("omission", "{title}, {medium}"),
    Rewording("synonym", "{title}, an artwork by {artist}"),
    Rewording("filler", "{title}, a famous {medium} by {artist}"),
    Rewording("quality", "{caption}, best quality, 4k"),
)
REWORDINGS = {"dev": DEV, "heldout": HELDOUT}
