"""What the Audit tab shows of a run folder, as HTML. Plain functions; they read pictures, and write nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from probes.report import html as report
from probes.report import mask_plots, plots
from probes.report.figures import MATERIAL, group_of
from probes.report.sheets import COLUMNS, thumbnail
from probes.report.summary import StoredSummary, stored_summary
from probes.report.wording import FLOW, wording_of
from probes.runs.folder import Run
from probes.runs.records import Record
from ui.folders import Listed
from ui.render import EMPTY, page_of, plot, table

RUN_COLUMNS = ("run", "kind", "model", "status", "begun (UTC)")
WORKS_A_PAGE = 12
RECORDS_A_PAGE = 40
SORTS = ("as recorded", "exposures, most first", "copies first", "name")
# What every record of a picture has; a run of another kind may hold others.
ANSWER = {"stage", "kind", "item", "scores", "copied"}
JUDGED = {True: "copy", False: "no copy", None: "not judged"}


def run_rows(runs: Sequence[Listed]) -> list[list[str]]:
    """Every run folder with its status, by RUN_COLUMNS."""
    return [[run.name, run.kind, run.model, run.status, run.created.replace("T", " ")[:16]] for run in runs]


def flow(entries: Sequence[Mapping[str, Any]], running: bool) -> Markup:
    """An audit's stages by what each does: which are done, which one runs, which are left."""
    status = {entry["stage"]: entry["status"] for entry in entries}
    ended = [place for place, stage in enumerate(FLOW) if status.get(stage) in ("complete", "skipped")]
    now = (ended[-1] + 1 if ended else 0) if running else None
    if not entries:
        return EMPTY
    items = []
    for place, (stage, label) in enumerate(FLOW.items()):
        kind = "now" if place == now else {"complete": "done", "skipped": "skipped"}.get(str(status.get(stage)), "left")
        items.append(Markup('<li class="ds-{}">{}<small>{}</small></li>').format(kind, label, kind))
    return Markup('<ol class="ds-flow" aria-label="Stages of the audit">{}</ol>').format(EMPTY.join(items))


def summary(run: Run, records: Sequence[Record]) -> Markup:
    """What was found in plain words, and what the run can't say."""
    answers = [record for record in records if ANSWER <= record.keys()]
    figures = stored_summary(run, answers)
    head = Markup('<p class="ds-note">{} of {}, {}, {} records</p>').format(
        run.about.get("kind", "run"),
        figures["model"] or (run.about.get("model") or {}).get("name") or "?",
        run.status,
        len(records),
    )
    said = Markup("<h2>In plain words</h2>{}").format(_list(report.plain_words(figures, answers))) if answers else EMPTY
    limits = figures["limits"]
    unsaid = Markup("<h2>What this can't say</h2>{}").format(_list(limits)) if limits else EMPTY
    return Markup('<section class="ds-part">{}{}{}{}</section>').format(head, said, unsaid, _rates(figures))


def _list(sentences: Iterable[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(EMPTY.join(Markup("<li>{}</li>").format(said) for said in sentences))


def _rates(figures: StoredSummary) -> Markup:
    """The report's main table."""
    rows = []
    for row in report.table_rows(figures):
        known = row["rate"] is not None
        share = f"{report.percent(row['rate'])}%" if known else "–"
        interval = f"{report.percent(row['low'])}–{report.percent(row['high'])}%" if known else "–"
        rows.append(
            (
                row["label"],
                report.GROUPS.get(row["group"], row["group"]),
                row["n"],
                row["works"],
                row["copied"],
                share,
                interval,
                row["unscored"],
            )
        )
    if not rows:
        return EMPTY
    columns = ("stage", "pictures asked for", "pictures", "works", "copies", "share", "95% interval", "not judged")
    return table(columns, rows, "Copies at each stage")


def stages(entries: Sequence[Mapping[str, Any]]) -> Markup:
    """What was done, how long it took, and why something was skipped."""
    rows = [
        (
            e["stage"].replace("_", " "),
            e["status"],
            f"{e.get('seconds') or 0:.0f} s",
            e.get("evaluations", "–"),
            e.get("why") or "",
        )
        for e in entries
    ]
    return table(("stage", "status", "time", "denoiser evaluations", "why"), rows, "Stages") if rows else EMPTY


def curves(run: Run, records: Sequence[Record]) -> Markup:
    """Ladder, attack beside its controls, and mask by layer: those that this run has."""
    answers = [record for record in records if ANSWER <= record.keys()]
    figures, drawn = stored_summary(run, answers), []
    if any(row["rate"] is not None for row in figures["ladder"]):
        metric = figures["criterion"].get("decides") or "no metric"
        threshold = figures["criterion"].get("metrics", {}).get(metric, {}).get("threshold")
        svg = plots.ladder_plot(figures["ladder"], report.ladder_scores(answers, metric), metric, threshold)
        drawn.append(plot(svg, "Copies by how often a work was shown in training, with 95% intervals over works."))
    if any(row["rate"] is not None for row in figures["curve"]):
        svg = plots.attack_plot(figures["curve"], axis=wording_of(figures["attack"]).axis)
        drawn.append(
            plot(
                svg,
                "The attack beside its controls, with 95% intervals over works: only the distance "
                "between members and controls speaks of memory.",
            )
        )
    densities = (figures["mask"] or {}).get("densities")
    if densities:
        drawn.append(plot(mask_plots.density_plot(densities), "Share of each layer's weights in the mask, in percent."))
    return EMPTY.join(drawn) or Markup('<p class="ds-note">This run has no curves yet.</p>')


@dataclass(frozen=True)
class Wanted:
    """Which works a visitor wants to see, and in which order. `group` empty: all."""

    text: str = ""
    group: str = ""
    copies: bool = False
    sort: str = SORTS[0]
    page: int = 1


def works(folder: Path, records: Sequence[Record], wanted: Wanted) -> Markup:
    """One page of the works with what came out at each stage."""
    items = [rows for rows in by_item(records).values() if _fits(rows, wanted)]
    items = ordered(items, wanted.sort)
    page = page_of(wanted.page, len(items), WORKS_A_PAGE)
    shown = items[(page - 1) * WORKS_A_PAGE : page * WORKS_A_PAGE]
    seen = {record["stage"] for rows in shown for record in rows}
    columns = [(title, found) for title, found in COLUMNS if seen.intersection(found)]
    rows = [(_about(rows), *(_cell(folder, rows, found, title) for title, found in columns)) for rows in shown]
    listed = table(("work", *(title for title, _ in columns)), rows, "Works and what came out at each stage")
    return EMPTY.join([_paged(page, len(items), WORKS_A_PAGE, "works"), listed if rows else EMPTY])


def by_item(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each work that have pictures, by its id."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if ANSWER <= record.keys() and (record["stage"] == "work" or record["stage"] not in MATERIAL):
            found[record["item"]].append(record)
    return {item: rows for item, rows in found.items() if any(row["stage"] != "work" for row in rows)}


def groups(records: Iterable[Record]) -> list[str]:
    """The groups that have works, in order of appearance."""
    return list(dict.fromkeys(group_of(rows[0]) for rows in by_item(records).values()))


def _fits(rows: Sequence[Record], wanted: Wanted) -> bool:
    text = " ".join([rows[0]["item"], *(str(row.get("prompt") or "") for row in rows)]).casefold()
    return (
        wanted.text.strip().casefold() in text
        and wanted.group in ("", group_of(rows[0]))
        and (not wanted.copies or _copies(rows) > 0)
    )


def _copies(rows: Sequence[Record]) -> int:
    return sum(row.get("copied") is True for row in rows)


def ordered(items: list[list[Record]], sort: str) -> list[list[Record]]:
    """Sorted as one of SORTS says; any other sort leaves the order of the records."""
    if sort == SORTS[1]:
        return sorted(items, key=lambda rows: -(rows[0].get("exposures") or 0))
    if sort == SORTS[2]:
        return sorted(items, key=lambda rows: -_copies(rows))
    return sorted(items, key=lambda rows: rows[0]["item"]) if sort == SORTS[3] else items


def _about(rows: Sequence[Record]) -> Markup:
    first = rows[0]
    exposures = first.get("exposures")
    shown = "" if exposures is None else f"shown {exposures} times" if exposures else "never shown"
    prompt = next((row["prompt"] for row in rows if row.get("prompt")), "")
    return Markup('<strong>{}</strong>{}<br><span class="ds-note">{}</span>').format(first["item"], prompt, shown)


def _cell(folder: Path, rows: Sequence[Record], found: Sequence[str], title: str) -> Markup:
    """The first seed's picture of a stage (of an attack, its largest budget) with its verdict in words."""
    fits = [row for row in rows if row["stage"] in found]
    if not fits:
        return EMPTY
    seed = min((seed for row in fits if (seed := row.get("seed")) is not None), default=None)
    record = max((row for row in fits if row.get("seed") in (seed, None)), key=lambda r: r.get("attack_steps") or 0)
    address = thumbnail(folder, record.get("picture"))
    said = "" if record["stage"] == "work" or record["kind"] == "scene" else JUDGED[record.get("copied")]
    if address is None:
        return Markup('<span class="ds-none">{}</span>').format(
            "blocked" if record.get("action") == "block" else "no picture"
        )
    return Markup('<img src="{}" alt="{}"><small class="ds-{}">{}</small>').format(
        address, f"{record['item']}, {title}", said.replace(" ", "-") or "plain", said
    )


def record_table(records: Sequence[Record], stage: str, text: str, page: int) -> Markup:
    """One page of the records themselves."""
    needle = text.strip().casefold()
    fits = [
        r
        for r in records
        if stage in ("", r.get("stage")) and needle in f"{r.get('item')} {r.get('prompt')} {r.get('reason')}".casefold()
    ]
    page = page_of(page, len(fits), RECORDS_A_PAGE)
    rows = [_row(record) for record in fits[(page - 1) * RECORDS_A_PAGE : page * RECORDS_A_PAGE]]
    columns = ("stage", "work", "prompt", "seed", "scores", "verdict", "what the shield did")
    return EMPTY.join(
        [_paged(page, len(fits), RECORDS_A_PAGE, "records"), table(columns, rows, "Records") if rows else EMPTY]
    )


def _row(record: Record) -> tuple[Any, ...]:
    scores = ", ".join(
        f"{name} {value:.3g}" for name, value in (record.get("scores") or {}).items() if value is not None
    )
    did = ": ".join(filter(None, [record.get("action"), record.get("reason")]))
    seed = record.get("seed")
    return (
        record.get("stage", ""),
        record.get("item", ""),
        record.get("prompt") or "",
        "" if seed is None else seed,
        scores,
        JUDGED[record["copied"]] if "copied" in record else "",
        did,
    )


def _paged(page: int, count: int, size: int, what: str) -> Markup:
    if not count:
        return Markup('<p class="ds-note" role="status">No {} fit.</p>').format(what)
    first, last = (page - 1) * size + 1, min(page * size, count)
    pages = -(-count // size)
    return Markup('<p class="ds-note" role="status">{}</p>').format(
        f"{what.capitalize()} {first} to {last} of {count}; page {page} of {pages}."
    )
