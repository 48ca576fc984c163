"""How long a run will still take, from one like it that was finished before.

An audit's stages are so unlike each other that the share that is done says little. Another audit of the same plan took
so long for each of them; this one is as much faster or slower as it was in the stages that are done. Without another
one, the denoiser evaluations of the shipped model's quick audit stand in, at this one's pace so far. A scan's records
come at one pace, so its own first ones say how long the rest takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probes.errors import RunError
from probes.runs.folder import Run
from ui.folders import Folders, stages_of

# As stages.json counts them.
QUICK = {
    "scan": 27,
    "before": 2600,
    "shielded": 1208,
    "twin": 600,
    "localize": 72,
    "pruned": 2000,
    "random_pruned": 600,
    "attacked": 1800,
    "nonmember_attacked": 1800,
    "twin_attacked": 1800,
    "surrogates": 200,
    "kept": 1200,
    "harden": 2160,
    "hardened": 1200,
    "hardened_attacked": 1200,
    "hardened_nonmember_attacked": 1200,
}
FEW = 5.0  # seconds of finished stages, below which their pace says nothing
ENDED = ("complete", "skipped")


def audit_seconds(folders: Folders, run: Run, entries: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """Seconds that an audit still takes, at the time `now`; None without one like it."""
    usual, known_pace = _usual(folders, run)
    if not usual:
        return None
    ended = {entry["stage"]: float(entry.get("seconds") or 0.0) for entry in entries if entry["status"] in ENDED}
    known = [stage for stage in ended if stage in usual]
    spent, expected = sum(ended[stage] for stage in known), sum(usual[stage] for stage in known)
    pace = spent / expected if spent >= FEW and expected > 0.0 else known_pace
    if pace is None:
        return None
    left = pace * sum(seconds for stage, seconds in usual.items() if stage not in ended)
    return max(0.0, left - _since(run, now))


def scan_seconds(first: tuple[float, int] | None, done: int, total: int | None, now: float) -> float | None:
    """Seconds that a scan still takes, which had so many records at a time `first`."""
    if first is None or total is None or done <= first[1]:
        return None
    return (now - first[0]) / (done - first[1]) * max(0, total - done)


def in_words(seconds: float | None) -> str:
    """Like "about 3 minutes left"; nothing where it isn't known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return "less than a minute left" if minutes < 1 else f"about {minutes} minute{'s' if minutes > 1 else ''} left"


def _usual(folders: Folders, run: Run) -> tuple[dict[str, float], float | None]:
    """What each stage costs, and how many seconds one of it takes, where that is known.

    Seconds of the newest finished audit of the same plan, of the same model if there is one; else evaluations.
    """
    alike = []
    for listed in folders.listed():
        if listed.kind != "audit" or listed.status != "complete":
            continue
        try:
            other = folders.opened(listed.name)
            if other.config.get("plan") == run.config.get("plan") and bool(_inputs(other)) == bool(_inputs(run)):
                alike.append((_model(other) != _model(run), stages_of(other)))
        except RunError:
            continue
    if alike:
        return _seconds(min(alike, key=lambda one: one[0])[1]), 1.0
    is_usual = run.config.get("quick") and not _inputs(run)
    return ({stage: float(count) for stage, count in QUICK.items()} if is_usual else {}), None


def _seconds(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {entry["stage"]: float(entry.get("seconds") or 0.0) for entry in entries}


def _since(run: Run, now: float) -> float:
    """Seconds since the last stage ended, or the run began."""
    for name in ("stages.json", "run.json"):
        file = run.folder / name
        if file.exists():
            return max(0.0, now - file.stat().st_mtime)
    return 0.0


def _model(run: Run) -> Any:
    return (run.about.get("model") or {}).get("sha256")


def _inputs(run: Run) -> Any:
    return run.about.get("inputs")
