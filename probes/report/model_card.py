"""A run as a part of a model card: the Hub's model-index in YAML, and a section on memorization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.report.figures import RateRow
from probes.report.findings import findings, headline
from probes.report.html import environment, found_of, read_run, write_page
from probes.report.sentences import percent, share
from probes.report.wording import GROUPS, STAGES


def write_model_card(folder: Path | str) -> Path:
    """Write model-card.md into the run folder. RunError if it is no run or nothing of it was judged."""
    run, records, figures = read_run(folder)
    found = found_of(run, figures, records)
    made = findings(found)
    page = (
        environment()
        .get_template("model_card.md.jinja")
        .render(
            model=found.model,
            run=run.about,
            head=headline(found, made),
            findings=made,
            metrics=_metrics(figures["rows"]),
            criterion=found.grading.words() if found.grading else None,
            limits=figures["limits"],
        )
    )
    path = run.folder / "model-card.md"
    write_page(path, page)
    return path


def _metrics(rows: Sequence[RateRow]) -> list[dict[str, Any]]:
    """Copy rates of the judged stages, as the model-index has them."""
    return [
        {
            "type": "copy-rate",
            "name": f"{STAGES.get(row['stage'], row['stage'])}, {GROUPS.get(row['group'], row['group'])}",
            "value": row["rate"],
            "said": share(row),
            "bound": percent(row["high"]),
        }
        for row in rows
        if row["rate"] is not None
    ]
