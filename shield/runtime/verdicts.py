"""A verdict, made of what became of an image, and where verdicts go: a logger, and a file that machines read."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shield.runtime.call import ImageState
from shield.types import Nearest, Verdict

log = logging.getLogger("shield.verdicts")


@dataclass(frozen=True)
class VerdictLog:
    """Appends verdicts to a file, one JSON object a line: `Shield(pipe, on_verdict=VerdictLog("verdicts.jsonl"))`.

    The file is opened for each line, so that it can be moved away in between, and a line is one write, so that threads
    and processes may share it.
    """

    file: Path | str

    def __call__(self, verdict: Verdict, **more: Any) -> None:
        """Appends a verdict, behind what else is named. Raises OSError."""
        path = Path(self.file).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**more, **verdict.to_dict()}, ensure_ascii=False) + "\n"
        with path.open("ab", buffering=0) as file:
            file.write(line.encode())


def tell(verdict: Verdict) -> None:
    """One record of the logger `shield.verdicts`, with the Verdict as its `verdict`. Prompts aren't in its text."""
    if log.isEnabledFor(logging.INFO):
        said = "; ".join(map(str, verdict.reasons)) or "nothing found"
        found = "flagged" if verdict.flagged else "not flagged" if verdict.scored else "not judged"
        log.info("image %d %s, %s: %s", verdict.index, verdict.status, found, said, extra={"verdict": verdict})


def verdict_of(image: ImageState, nearest: Nearest | None, milliseconds: float) -> Verdict:
    """What a call ends with for one image."""
    mitigated = image.action == "mitigate"
    return Verdict(
        index=image.row,
        prompt=image.prompt,
        status={"mitigate": "mitigated", "block": "blocked"}.get(image.action, "passed"),
        scores=tuple(image.scores),
        reasons=image.reasons,
        mitigation=image.mitigation.name if mitigated and image.mitigation else None,
        rewritten_prompt=image.rewritten if mitigated else None,
        concepts=tuple(m.concept for m in image.mentions),
        nearest=nearest,
        scored=image.scored,
        token_weights=image.weights,
        extra_calls=image.extra_calls,
        milliseconds=milliseconds,
    )
