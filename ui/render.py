"""What the Shield and Protected tabs show, as HTML. Plain functions: no page, no model, no state.

Whatever comes from outside (prompts, names, reasons) goes through Markup.format, which escapes it. Nothing here is
said by color alone.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup
from PIL import Image

from shield.protected.concepts import Concept
from shield.types import Mention, Nearest, Verdict, WordWeight
from ui.wording import title

EMPTY = Markup("")
Figure = tuple[str, str | None, str, str] | tuple[str, str | None, str, str, Markup]
"""(title, address or None, what the picture is in words, veil, what is drawn over it)."""


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    """The picture itself in place of an address, so that nothing is stored for a page to fetch."""
    data = io.BytesIO()
    image.convert("RGB").save(data, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def status(
    sentence: str,
    done: int | None = None,
    total: int | None = None,
    *,
    kind: str = "",
    counted: str = "Denoising steps",
) -> Markup:
    """One live line, with a progress bar where `counted` are known. `kind` "bad" for what went wrong."""
    bar = EMPTY
    if done is not None and total:
        bar = Markup('<progress max="{}" value="{}" aria-label="{}"></progress>').format(total, done, counted)
    role = "alert" if kind == "bad" else "status"
    return Markup('<div class="ds-status ds-{}" role="{}"><p>{}</p>{}</div>').format(
        kind or "plain", role, sentence, bar
    )


def unfinished(line: str) -> bool:
    """Whether this line of `status` is of no kind: something is under way, and nothing came out yet."""
    return line.startswith('<div class="ds-status ds-plain"')


def note(sentence: str) -> Markup:
    """A quiet line."""
    return Markup('<p class="ds-note" role="status">{}</p>').format(sentence)


def pictures(figures: Iterable[Figure]) -> Markup:
    """Pictures side by side.

    `veil` "blurred" blurs a picture; "box" does so until a box under it is ticked; "" shows it.
    """
    return Markup('<div class="ds-pair">{}</div>').format(EMPTY.join(_figure(*figure) for figure in figures))


def _figure(title: str, address: str | None, words: str, veil: str, over: Markup = EMPTY) -> Markup:
    if address is None:
        shown = Markup('<div class="ds-none"><span>{}</span></div>').format(words)
    else:
        shown = Markup('<span class="ds-under"><img src="{}" alt="{}">{}</span>').format(address, words, over)
    box = Markup('<label class="ds-veil"><input type="checkbox"> Show the flagged picture</label>')
    return Markup('<figure class="{}"><figcaption>{}</figcaption>{}{}</figure>').format(
        "ds-veiled" if veil else "", title, shown, box if veil == "box" else EMPTY
    )


def outline(work: Nearest | None, size: tuple[int, int]) -> Markup:
    """Where in a picture of this size the nearest protected one lies, to be drawn over it; nothing where that isn't
    known.
    """
    if work is None or work.region is None:
        return EMPTY
    width, height = size
    corners = " ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in work.region)
    return Markup(
        '<svg class="ds-outline" viewBox="0 0 {} {}" role="img" aria-label="Outlined: where {} lies">'
        '<polygon points="{}"/></svg>'
    ).format(width, height, work.work, corners)


def titled(title: str, content: Markup) -> Markup:
    """A part of the page under its title."""
    return Markup('<section class="ds-part"><h2>{}</h2>{}</section>').format(title, content)


def heat(prompt: str, words: Sequence[WordWeight]) -> Markup:
    """The prompt with each word marked as strongly as it pulls."""
    if not words:
        return EMPTY
    parts, place, strongest = [EMPTY], 0, max(word.weight for word in words) or 1.0
    for word in words:
        parts += [
            Markup("{}").format(prompt[place : word.start]),
            Markup('<span class="ds-word" style="--share:{}">{}<small>{}%</small></span>').format(
                f"{word.weight / strongest:.2f}", prompt[word.start : word.end], round(100 * word.weight)
            ),
        ]
        place = word.end
    marked = EMPTY.join([*parts, Markup("{}").format(prompt[place:])])
    return titled(
        "Which words carry it",
        Markup(
            '<p class="ds-words">{}</p><p class="ds-note">Each word\'s share of '
            "what pulls the picture away from chance.</p>"
        ).format(marked),
    )


def mentions(prompt: str, found: Sequence[Mention]) -> Markup:
    """The prompt with its protected concepts marked, and how each was found."""
    parts, place = [EMPTY], 0
    for mention in found:
        parts += [
            Markup("{}").format(prompt[place : mention.start]),
            Markup("<mark>{}<small>{}, {}</small></mark>").format(mention.text, mention.concept, mention.how),
        ]
        place = mention.end
    text = EMPTY.join([*parts, Markup("{}").format(prompt[place:])])
    note = f"{len(found)} protected {'concept' if len(found) == 1 else 'concepts'}" if found else "Nothing protected"
    return Markup('<p class="ds-words">{}</p><p class="ds-note" role="status">{} found in this prompt.</p>').format(
        text, note
    )


def rewritten(before: str, after: str | None) -> Markup:
    """The prompt that was drawn instead, word by word against the one that was asked for."""
    if after is None:
        return EMPTY
    old, new, parts = before.split(), after.split(), []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(Markup("{}").format(" ".join(old[a:b])))
            continue
        if a < b:
            parts.append(Markup("<del>{}</del>").format(" ".join(old[a:b])))
        if c < d:
            parts.append(Markup("<ins>{}</ins>").format(" ".join(new[c:d])))
    return titled("Rewritten prompt", Markup('<p class="ds-words">{}</p>').format(Markup(" ").join(parts)))


def nearest(found: Iterable[tuple[str, Nearest | None, str | None]]) -> Markup:
    """The protected works that finished pictures are most like: (which picture, work, its address), and whether that
    counts as a copy.
    """
    rows = EMPTY.join(_nearest(side, work, address) for side, work, address in found if work is not None)
    return titled("Nearest protected work", rows) if rows else EMPTY


def _nearest(side: str, work: Nearest, address: str | None) -> Markup:
    said = {"copy": "that counts as a copy", "near": "that is near, but no copy", "none": "that is no copy"}
    judged = said[work.closeness]
    picture = Markup('<img src="{}" alt="{}">').format(address, f"Protected work: {work.work}") if address else EMPTY
    return Markup('<div class="ds-nearest">{}<p><strong>{}:</strong> {}<br>{}</p></div>').format(
        picture,
        side,
        work.work,
        f"{work.metric} {work.score:.3f}, threshold {work.threshold:.3f}: {judged}.{_found(work)}",
    )


def _found(work: Nearest) -> str:
    """What found it, and where; nothing about a work that the picture isn't like."""
    if work.closeness == "none":
        return ""
    return f" Found by {title(work.descriptor)}{', outlined in the picture above' if work.region else ''}."


def scores(verdict: Verdict) -> Markup:
    """Every detector's score beside its threshold, and what the shield cost."""
    if not verdict.scores:
        return EMPTY
    said = {True: "flagged", False: "not flagged", None: "can't judge"}
    # A second attempt scores the same step again, which may differ in a digit that nobody is shown.
    rows = dict.fromkeys(
        (
            title(s.detector),
            f"{s.value:.3g}",
            "none" if s.threshold is None else f"{s.threshold:.3g}",
            s.step + 1,
            said[s.flagged],
        )
        for s in verdict.scores
    )
    calls = f"{verdict.extra_calls or 'no'} extra denoiser {'call' if verdict.extra_calls == 1 else 'calls'}"
    cost = f"The shield took {verdict.milliseconds / 1000:.2f} s and {calls}."
    return Markup('<section class="ds-part">{}<p class="ds-note">{}</p></section>').format(
        table(("detector", "score", "threshold", "step", "verdict"), rows, "Scores"), cost
    )


def plot(svg: str, words: str) -> Markup:
    """A plot of ours, with what it shows in words."""
    marked = svg.replace("<svg ", str(Markup('<svg role="img" aria-label="{}" ').format(words)), 1)
    return Markup(
        '<figure class="ds-plot"><div class="ds-scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
        "<figcaption>{}</figcaption></figure>"
    ).format(f"Plot: {words.split('. ')[0][:80]}", Markup(marked), words)


def downloads(picture: Image.Image, about: Mapping[str, Any], name: str, link: str) -> Markup:
    """Links that save what was handed out and everything that is known about it, and one that draws it again."""
    text = json.dumps(about, indent=1, ensure_ascii=False).encode("utf-8", "replace")
    verdict = f"data:application/json;base64,{base64.b64encode(text).decode()}"
    return Markup(
        '<p class="ds-downloads"><a download="{}.png" href="{}">Download the picture</a> '
        '<a download="{}.json" href="{}">Download the verdict (JSON)</a> '
        '<a href="{}">Link to this prompt and seed</a></p>'
    ).format(name, data_url(picture), name, verdict, link)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> Markup:
    """A plain table under its caption. Cells that are Markup stay HTML."""
    head = EMPTY.join(Markup('<th scope="col">{}</th>').format(column) for column in columns)
    body = EMPTY.join(
        Markup("<tr>{}</tr>").format(EMPTY.join(Markup("<td>{}</td>").format(cell) for cell in row)) for row in rows
    )
    return Markup(
        '<div class="ds-scroll" tabindex="0" role="region" aria-label="{}"><table class="ds-table">'
        "<caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, caption, head, body)


def fitting(concepts: Sequence[Concept], wanted: str) -> list[Concept]:
    """The concepts that hold `wanted` anywhere."""
    needle = wanted.casefold().strip()
    return [c for c in concepts if needle in "\n".join([c.name, c.kind, *c.aliases, *c.descriptions]).casefold()]


def concepts_table(concepts: Sequence[Concept], wanted: str, page: int = 1, size: int = 25) -> Markup:
    """One page of the registry's entries that hold `wanted` anywhere."""
    fits = fitting(concepts, wanted)
    start = (page_of(page, len(fits), size) - 1) * size
    shown = fits[start : start + size]
    rows = [(c.name, c.kind, "; ".join(c.aliases), "; ".join(c.descriptions), c.substitute) for c in shown]
    listed = table(("name", "kind", "also called", "described as", "said instead"), rows, "Protected concepts")
    return EMPTY.join([_shown(start, len(rows), len(fits), len(concepts), "concepts"), listed if rows else EMPTY])


def gallery_grid(works: Sequence[tuple[str, str | None, int]], total: int, fits: int, start: int = 0) -> Markup:
    """One page's works as (name, picture's address, number of pictures); `start` of those that fit come before it."""
    cells = EMPTY.join(
        Markup("<li>{}<span>{}</span></li>").format(
            Markup('<img src="{}" alt="">').format(address) if address else EMPTY,
            f"{name} ({count} pictures)" if count > 1 else name,
        )
        for name, address, count in works
    )
    grid = Markup('<ul class="ds-grid" aria-label="Protected pictures">{}</ul>').format(cells) if cells else EMPTY
    return EMPTY.join([_shown(start, len(works), fits, total, "works"), grid])


def page_of(page: int, count: int, size: int) -> int:
    """The number of the page that is shown where this one is asked for: one that there is."""
    return min(max(page, 1), max(1, -(-count // size)))


def _shown(start: int, shown: int, fits: int, total: int, what: str) -> Markup:
    if not total:
        text = f"There are no protected {what} yet."
    elif not fits:
        text = f"None of the {total} {what} fits."
    else:
        which = f"{what.capitalize()} {start + 1} to {start + shown} of {fits}"
        text = which + ("." if fits == total else f" that fit; {total} in all.")
    return note(text)
