"""What a scan says of what it flagged: the list with its words, the threshold behind it, and how many are memorized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.drawing.draw import Job
from probes.inputs.prompts import PromptRecord
from probes.metrics.prevalence import Rate, prevalence
from probes.report.summary import Added
from probes.runs.folder import Run
from probes.runs.stage_log import Stages
from probes.scan.flagged import LISTED, SHOWN, flagged_prompts, is_flagged, scored_prompts, write_flagged
from probes.scan.pilot import calibrate_line
from probes.scan.protected import protected_figures
from probes.scan.scorer import Weighed
from shield.errors import BadRequestError
from shield.protected.gallery import Gallery
from shield.thresholds import Threshold

WORDS = 16  # flagged prompts whose words are weighed, at a denoiser call and its gradient each
_ALIKE = ("model", "detectors", "steps", "sampling", "dtype")


@dataclass(frozen=True)
class Telling:
    """What is told of the flagged beside their scores: the words of so many, and with ``tpr``, the share of memorized
    prompts that are flagged, how many of all are memorized. With pictures, so many ``benign``
    prompts are drawn beside them.
    """

    words: int = 0
    tpr: Rate | None = None
    benign: int = 0


def described_threshold(threshold: Threshold | None) -> dict[str, Any]:
    """What of a threshold a scan's stage keeps: its value and where its false-alarm rate comes from."""
    if threshold is None:
        return {"threshold": None}
    about = threshold.provenance
    return {
        "threshold": threshold.value,
        "calibration": {
            "fpr": threshold.fpr,
            "negatives": threshold.negatives,
            "prompts": about.get("prompts"),
            "source": str(about.get("negatives") or about.get("source") or "its negatives"),
            "interval": list(threshold.interval),
        },
    }


def weigh_words(
    run: Run, stages: Stages, threshold: float | None, count: int, weigh: Callable[[Sequence[Job]], Weighed]
) -> None:
    """Stage "words": the words of the flagged prompts with the highest scores, ``count`` of them."""
    rows, _ = flagged_prompts(run, run.config["detectors"][0], threshold)
    if not rows or not count:
        return

    def work() -> dict[str, Any]:
        jobs = [Job(PromptRecord(row["item"], row["prompt"]), row["seed"]) for row in rows[:count]]
        found = weigh(jobs)
        stages.cost.evaluations += found.evaluations
        return {"words": {job.target.id: words for job, words in zip(jobs, found.words, strict=True)}, "why": found.why}

    stages.do("words", work)


def outcome_figures(run: Run, stages: Stages, known: Rate | None = None, gallery: Gallery | None = None) -> Added:
    """The flagged prompts, the prevalence and what is protected, for summary.json; writes flagged.csv where there is a
    threshold, and the lists of protected_figures.

    Args:
        run: With its records.
        stages: What was done; of it the threshold and the words.
        known: The share of memorized prompts that are flagged, where it was measured.
        gallery: What pictures are compared with, if there is one.
    """
    detail = next((one for stage in ("scan", "before") if (one := stages.detail(stage)).get("calibration")), {})
    threshold, calibration = detail.get("threshold"), detail.get("calibration")
    if calibration is None:
        command = calibrate_line(run.config)
        return {
            "threshold": threshold,
            "calibration": None,
            "calibrate": command,
            "flagged_prompts": [],
            "prevalence": None,
            **protected_figures(run, gallery),
        }
    rows, count = flagged_prompts(run, run.config["detectors"][0], threshold)
    words = stages.detail("words")
    rows = [{**row, "words": words.get("words", {}).get(row["item"], [])} for row in rows]
    write_flagged(run.folder, rows)
    return {
        "threshold": threshold,
        "calibration": calibration,
        "flagged_prompts": rows[:SHOWN],
        "flagged_count": count,
        "flagged_listed": min(count, LISTED),
        "words_why": words.get("why"),
        "prevalence": _prevalence(run, calibration, known),
        **protected_figures(run, gallery),
    }


def _prevalence(run: Run, calibration: Mapping[str, Any], known: Rate | None) -> dict[str, Any] | None:
    flagged = rate_of_flagged(run)
    if flagged is None:
        return None
    alarms = Rate.of_threshold(
        calibration["fpr"], calibration["negatives"], calibration["prompts"], calibration["source"]
    )
    return {
        **prevalence(flagged, alarms, known),
        "flagged": flagged.figures(),
        "fpr": alarms.figures(),
        "tpr": None if known is None else known.figures(),
    }


def rate_of_flagged(run: Run, source: str = "") -> Rate | None:
    """The share of noises that are flagged, with as many observations as prompts; None where none could be judged.

    With early exit it is the share of prompts.
    """
    shares = []
    for records in scored_prompts(run):
        if "prompt_flagged" in records[-1]:
            shares += [] if records[-1]["prompt_flagged"] is None else [float(is_flagged(records))]
            continue
        judged = [one["flagged"] for one in records if one["flagged"] is not None]
        shares += [sum(judged) / len(judged)] if judged else []
    return Rate.counted(sum(shares) / len(shares), len(shares), source) if shares else None


def known_rate(given: str | None, config: Mapping[str, Any]) -> Rate | None:
    """The share of memorized prompts that are flagged: "45/50", or the folder of a scan of prompts that are known to be
    memorized, with the same model and options.

    Raises:
        BadRequestError: It is neither, or that scan has no threshold or other options.
        RunError: The folder is no run, or is damaged.
    """
    if given is None:
        return None
    first, slash, second = given.partition("/")
    if slash and first.strip().isdigit() and second.strip().isdigit():
        k, n = int(first), int(second)
        if not 0 <= k <= n or n == 0:
            raise BadRequestError(f"Of n memorized prompts 0 to n are flagged, as in 45/50; {given} was given.")
        return Rate.counted(k / n, n, f"{k} of {n} memorized prompts, as given")
    run = Run.open(Path(given))
    if run.status != "complete" or run.about["kind"] != "scan":
        raise BadRequestError(
            f"{given} is no complete scan of memorized prompts; it is a {run.about['kind']}, {run.status}."
        )
    other = next((key for key in _ALIKE if key in config and run.config.get(key) != config[key]), None)
    if other is not None:
        raise BadRequestError(
            f"The scan {given} was made with {other} {run.config.get(other)}; this one has {config[other]}."
        )
    rate = rate_of_flagged(run, f"the scan {given} of prompts that are known to be memorized")
    if rate is None:
        raise BadRequestError(
            f"The scan {given} has no threshold, so it doesn't say what share of its prompts is flagged."
        )
    return rate
