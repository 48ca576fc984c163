"""Concepts that a prompt means without naming them, and that a picture shows: one space for texts and pictures.

Every name, alias and description of a concept is a point in the space of a CLIP (shield/model/openclip.py), of a
sentence encoder or of a pipeline's own text encoder (shield/model/text_encoders.py, without pictures); its `indirect`
descriptions are read here alone. A prompt is read whole and clause by clause, so that a description in a long prompt
isn't averaged away; where a reading lies nearer to a concept than the limit allows, the concept counts as mentioned.
The limit is calibrated on declared benign prompts, the hardest of which are generic neighbors ("a robot on a blue
background"). GoG (arXiv 2503.16171) compares the whole prompt with a fixed 0.8 through a paid API, which long prompts
pass. Names in disguise are the spelling screen's part (shield/protected/concepts.py), which is asked too.

A text tower reads order and articles ("the robot, red, with one wheel" lies far from "the red robot with one wheel"),
so don't trust it for scrambled descriptions: the spelling screen finds those by their words.
"""

import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shield.benign.prompts import benign_prompts
from shield.errors import BadRequestError, NotCalibratedError, WeightsError, reason_of
from shield.model.assets import own_thresholds_folder, thresholds_folders
from shield.model.openclip import OpenClip
from shield.model.text_encoders import MINILM, PipelineTextEncoder, SentenceEncoder, TextEncoder
from shield.protected.concepts import Concept, Concepts
from shield.thresholds import quantile
from shield.types import Mention

FORMAT = 1
FPR = 0.005
FEWEST = 4  # words that describe something to a sentence encoder; "shot on a phone" lies near to many names
COMMAND = "diffshield calibrate-concepts"
BELOW = "concepts"  # the folder of limits in a folder of thresholds
_log = logging.getLogger("shield")
_KINDS = "picture|photo|photograph|image|drawing|painting|illustration|portrait|render"
_LEAD = re.compile(rf"^(?:(?:an?|the)\s+)?(?:(?:{_KINDS})\s+of\s+)?(?:(?:an?|the)\s+)?", re.IGNORECASE)
_BREAK = re.compile(
    r"[\s,;:.!?|()\[\]\n]*[,;:.!?|()\[\]\n][\s,;:.!?|()\[\]\n]*"
    r"|\s+(?:on|in\s+front\s+of|in|at|under|over|near|beside|behind|next\s+to)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MeaningLimit:
    """Similarity above which a prompt means a concept: for these concepts and this encoder only.

    `fpr` is the wanted share of benign prompts above it, `negatives` how many it was made from, `interval` the 95 %
    interval of the quantile it estimates, `provenance` which prompts they were.
    """

    openclip_sha256: str
    concepts_sha256: str
    value: float
    fpr: float
    negatives: int
    interval: tuple[float, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Meaning:
    """A screen: what `concepts` finds by spelling, and what an encoder of texts finds by meaning.

    Args:
        concepts: What is protected.
        encoder: An OpenClip or its source, "minilm" (extra `meaning`), or a TextEncoder.
        limit: A MeaningLimit, or the folder to find it in; by default the user's own, then that of the shipped ones.

    Raises:
        NotCalibratedError: No limit was made for this encoder and these concepts.
        WeightsError: The encoder can't be loaded.
    """

    def __init__(
        self, concepts: Concepts, encoder: TextEncoder | Path | str, limit: MeaningLimit | Path | str | None = None
    ) -> None:
        self.space = Space(concepts, encoder)
        self.limit = limit if isinstance(limit, MeaningLimit) else found_limit(self.space, limit)
        if self.limit.openclip_sha256 != self.space.encoder.sha256 or self.limit.concepts_sha256 != self.space.sha256:
            raise NotCalibratedError(
                f"The limit was made for another encoder or other concepts; run `{_command(self.space)}`."
            )

    @classmethod
    def of(cls, pipe: Any, concepts: Concepts | None = None, fpr: float = FPR) -> "Meaning":
        """The screen with the text encoder that a pipeline has anyway; see `calibrated`.

        Raises UnsupportedPipelineError for a pipeline without a text encoder.
        """
        return cls.calibrated(concepts or Concepts.load(), PipelineTextEncoder(pipe), fpr)

    @classmethod
    def calibrated(cls, concepts: Concepts, encoder: TextEncoder | Path | str, fpr: float = FPR) -> "Meaning":
        """The screen with the limit that is kept for it, else with one made from the benign prompts that ship.

        The limit is kept in the user data folder; at most `fpr` of prompts like the benign ones lie above it.
        """
        space = Space(concepts, encoder)
        try:
            limit = found_limit(space)
            if limit.fpr == fpr:
                return cls(concepts, space.encoder, limit)
        except NotCalibratedError:
            pass
        limit = calibrated_limit(space, benign_prompts("calibration"), fpr, {"prompts": "benign prompts that ship"})
        _log.info(
            "%s", f"The screen by meaning got its limit, {limit.value:.3f}: {save_limit(limit, limits_folder())}."
        )
        return cls(concepts, space.encoder, limit)

    def found(self, prompt: str) -> list[Mention]:
        """Every protected concept in `prompt`, in order of place: what is spelled out, then what is meant, then what is
        described by its words in any order, which says the least about which concept it is.
        """
        spelled = self.space.concepts.found(prompt)
        meant = sorted(self.space.meant(prompt, self.limit.value), key=lambda m: -(m.similarity or 0.0))
        kept: list[Mention] = []
        for mention in sorted([*spelled, *meant], key=lambda m: (m.how == "described", m.how == "meaning")):
            if all(mention.end <= k.start or k.end <= mention.start for k in kept):
                kept.append(mention)
        return sorted(kept, key=lambda m: m.start)


class Space:
    """Concepts as points of an encoder's space, and how near prompts and, for a CLIP, pictures come to them."""

    def __init__(self, concepts: Concepts, encoder: TextEncoder | Path | str) -> None:
        self.concepts = concepts
        self.encoder: TextEncoder = as_encoder(encoder)
        texts = [(c, t) for c in concepts.concepts for t in self._told(c)]
        if not texts:
            raise BadRequestError("A screen by meaning needs at least one concept; the registry is empty.")
        self._owners = [concept for concept, _ in texts]
        self._points = self.encoder.texts([_plain(text) for _, text in texts])
        self.sha256 = sha256(json.dumps([[c.name, _plain(t)] for c, t in texts]).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Of this encoder and these concepts together."""
        return fingerprint(self.encoder.sha256, self.sha256)

    @property
    def sees(self) -> bool:
        """Whether the encoder reads pictures, too."""
        return isinstance(self.encoder, OpenClip)

    def _told(self, concept: Concept) -> tuple[str, ...]:
        """The texts of a concept. Sentence encoders take its names only where nothing describes it: "a hedgehog" lies
        near to a hedgehog's name. A CLIP, which is to know the concept in pictures, takes all.
        """
        names, described = (concept.name, *concept.aliases), (*concept.descriptions, *concept.indirect)
        return (*names, *described) if self.sees else described or names

    def similarity(self, prompt: str) -> float:
        """Cosine of the nearest reading of `prompt` to the nearest concept; -1 for a prompt without words."""
        return float(self._nearest(prompt)[1].max(initial=-1.0))

    def meant(self, prompt: str, above: float) -> Iterator[Mention]:
        """The concept of each reading that is nearer than `above`."""
        for (start, end), row in zip(*self._nearest(prompt, reduced=False), strict=True):
            best = int(row.argmax())
            if row[best] > above:
                concept, similarity = self._owners[best], float(row[best])
                yield Mention(concept.name, prompt[start:end], start, end, "meaning", concept.substitute, similarity)

    def _nearest(self, prompt: str, reduced: bool = True) -> tuple[list[tuple[int, int]], np.ndarray]:
        """(places of the readings, (N,) best or (N, texts) all cosines)."""
        spans = list(readings(prompt, 1 if self.sees else FEWEST))
        if not spans:
            return [], np.empty((0,))
        cosines = self.encoder.texts([_plain(prompt[start:end]) for start, end in spans]) @ self._points.T
        return spans, cosines.max(axis=1) if reduced else cosines

    def shown(self, pictures: Sequence[Image.Image]) -> list[tuple[float, str]]:
        """(cosine, name) of the concept whose texts each picture is nearest to.

        Raises BadRequestError where the encoder is no CLIP.
        """
        if not isinstance(self.encoder, OpenClip):
            raise BadRequestError("Pictures are compared with concepts by a CLIP; make the Meaning with an OpenClip.")
        cosines = self.encoder.pictures(pictures) @ self._points.T
        best = cosines.argmax(axis=1)
        return [(float(row[b]), self._owners[b].name) for row, b in zip(cosines, best, strict=True)]


def as_encoder(given: TextEncoder | Path | str) -> TextEncoder:
    """An encoder as it is, or by its name: "minilm", or what OpenClip takes."""
    if not isinstance(given, str | Path):
        return given
    return SentenceEncoder() if given == MINILM else OpenClip(given)


def readings(prompt: str, fewest: int = 1) -> Iterator[tuple[int, int]]:
    """(start, end) of each clause and, where there are several, of the whole prompt, if it has `fewest` words."""
    edges = [0, *(edge for gap in _BREAK.finditer(prompt) for edge in gap.span()), len(prompt)]
    clauses = [(s, e) for s, e in zip(edges[::2], edges[1::2], strict=True) if _plain(prompt[s:e]) != _plain("")]
    whole = [(clauses[0][0], clauses[-1][1])] if len(clauses) > 1 else []
    for start, end in clauses + whole:
        if len(_plain(prompt[start:end]).split()) > fewest:
            yield start, end


def _plain(text: str) -> str:
    """One form for both sides of a comparison: a text tower tells "the robot" from "a picture of a robot"."""
    return "a " + _LEAD.sub("", " ".join(text.lower().split()))


def calibrated_limit(
    space: Space, prompts: Sequence[str], fpr: float, provenance: Mapping[str, Any] | None = None
) -> MeaningLimit:
    """The limit above which at most `fpr` of prompts like these lie. They mean none of the concepts, by declaration.

    Prompts in which a concept is spelled out aren't counted; how many is kept. Raises BadRequestError for too few.
    """
    benign = [prompt for prompt in dict.fromkeys(prompts) if not space.concepts.found(prompt)]
    value, interval = quantile("The screen by meaning", [space.similarity(prompt) for prompt in benign], fpr)
    about = {"openclip": space.encoder.source, "spelled_out": len(set(prompts)) - len(benign), **(provenance or {})}
    return MeaningLimit(space.encoder.sha256, space.sha256, value, fpr, len(benign), interval, about)


def limits_folder() -> Path:
    """Where limits are written by default, and found before the shipped ones."""
    return own_thresholds_folder() / BELOW


def save_limit(limit: MeaningLimit, folder: Path) -> Path:
    """Writes one JSON file, whole or not at all; a limit for the same CLIP and concepts is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fingerprint(limit.openclip_sha256, limit.concepts_sha256)}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"format": FORMAT, **asdict(limit)}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def _command(space: Space) -> str:
    """The command that makes the limit; of encoders that it doesn't take, what makes it in Python."""
    if not isinstance(space.encoder, OpenClip):
        return "Meaning.calibrated(concepts, encoder)"
    source = shlex.quote(str(getattr(space.encoder, "source", "OPENCLIP")))
    return f"{COMMAND} --openclip {source} --registry REGISTRY.toml --prompts BENIGN.txt"


def found_limit(space: Space, folder: Path | str | None = None) -> MeaningLimit:
    """The limit for this CLIP and these concepts: of `folder`, else the user's own, else the shipped one.

    Raises NotCalibratedError, and WeightsError for a broken file.
    """
    places = [above / BELOW for above in thresholds_folders()] if folder is None else [Path(folder)]
    files = [place / f"{space.fingerprint}.json" for place in places]
    path = next((file for file in files if file.is_file()), files[0])
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError(f"its format isn't {FORMAT}")
        low, high = data.pop("interval")
        return MeaningLimit(**data, interval=(float(low), float(high)))
    except FileNotFoundError:
        raise NotCalibratedError(
            f"The screen by meaning has no limit for these concepts and this encoder in "
            f"{' or '.join(map(str, places))}; run `{_command(space)}`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} can't be read ({reason_of(error)}); run `{COMMAND}` again.") from None


def fingerprint(openclip: str, concepts: str) -> str:
    """Of an encoder and concepts together."""
    return sha256(f"{openclip} {concepts}".encode()).hexdigest()[:16]
