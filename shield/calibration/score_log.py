"""Scores of a calibration on the way, so that one that was stopped goes on where it was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


class ScoreLog:
    """A file with one line for each score. A torn last line counts as none.

    The file's name has to stand for everything that moves a score: model, setting, detectors and their options.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        """Reads what `path` holds, or with `resume` off begins anew. Raises OSError."""
        self.path = path
        self._held: dict[tuple[str, int], dict[str, float]] = {}
        if not resume:
            path.unlink(missing_ok=True)
        if path.exists():
            self._read()

    def known(self, prompts: Sequence[str], seed: int) -> dict[str, list[float]] | None:
        """The scores by detector, if those of all of these prompts are there."""
        rows = [self._held.get((prompt, seed)) for prompt in prompts]
        if None in rows or not rows:
            return None
        return {name: [row[name] for row in rows if row is not None] for name in rows[0] or ()}

    def keep(self, prompts: Sequence[str], seed: int, scores: Mapping[str, Sequence[float]]) -> None:
        """Writes the scores by detector through to the file. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            for place, prompt in enumerate(prompts):
                row = {name: values[place] for name, values in scores.items()}
                self._held[prompt, seed] = row
                file.write(json.dumps([prompt, seed, row]) + "\n")

    def done(self) -> None:
        """Removes the file: what it was for is made."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        whole = self.path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        for line in whole.splitlines():
            prompt, seed, row = json.loads(line)
            self._held[prompt, seed] = row
        self.path.write_bytes(whole)  # without the torn line, which the next one would be appended to
