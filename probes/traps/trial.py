"""`diffshield traps test`: what a model's losses on used traps look like among those on traps that nobody used.

Two scores of a trap, both lower where the model knows it:

    loss      mean of the denoising loss on its picture under its caption, over fixed timesteps and noises
    attacked  the same loss at the same timesteps and noises, with the embedding that a short search (see
              probes/attacks/adversarial_embedding.py) found from its caption

All traps share their timesteps and noises, in the loss and in the search, so that they differ in nothing but
themselves. A search also lowers the loss on what was never seen; that is no harm, since the held-back traps get the
same search. p-values are those of probes/traps/ranks.py. Who looks at both scores doubles the smaller p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from probes.attacks.adversarial_embedding import AdversarialEmbedding
from probes.errors import TrapError
from probes.metrics.statistics import auroc
from probes.model.generate import encode_pictures, encode_prompts
from probes.model.training_loss import frozen, training_loss
from probes.paths import takes_paths
from probes.runs.folder import Run, record_id, write_json
from probes.runs.progress import bars
from probes.runs.provenance import describe_input
from probes.runs.records import Record
from probes.testbed.checkpoint import Checkpoint
from probes.traps.folder import Trap, Traps, read_traps, shipped_traps
from probes.traps.ranks import rank_p, single_p
from probes.types import Goal, Subject
from shield.errors import reason_of
from shield.protected.pictures import UNREADABLE, open_image

STATISTICS = ("loss", "attacked")
ALONE = 0.05


@dataclass(frozen=True)
class Measure:
    """``draws`` timesteps and noises of the loss; the search behind "attacked"; the seed of all their numbers.

    ``chunk`` traps are measured at once, always the same ones together.
    """

    draws: int = 16
    attack: AdversarialEmbedding = field(default_factory=lambda: AdversarialEmbedding(steps=5, batch=4))
    seed: int = 0
    chunk: int = 8

    def losses(self, subject: Subject, traps: Sequence[Trap]) -> list[dict[str, float]]:
        """Both scores of each trap. Leaves the model bit-equal. TrapError for a picture that can't be read."""
        clean = encode_pictures(subject, [_picture(trap) for trap in traps])
        embeds = encode_prompts(subject, [trap.caption for trap in traps])
        goals = [
            Goal(trap.id, latents.cpu(), embed.cpu(), self.seed + 1, trap.caption)
            for trap, latents, embed in zip(traps, clean, embeds, strict=True)
        ]
        found = self.attack.search(subject, goals)
        after = torch.stack([one.prompt_embeds[self.attack.steps] for one in found]).to(embeds)
        values = [self._loss(subject, clean, given) for given in (embeds, after)]
        return [dict(zip(STATISTICS, row, strict=True)) for row in zip(*values, strict=True)]

    def _loss(self, subject: Subject, clean: torch.Tensor, embeds: torch.Tensor) -> list[float]:
        with frozen(subject.denoiser), torch.no_grad():
            draws = [torch.Generator().manual_seed(self.seed) for _ in clean]
            return training_loss(subject, clean.to(subject.device), embeds, draws, self.draws).tolist()


@dataclass(frozen=True)
class Trial:
    """Where the records are, and the figures."""

    folder: Path
    summary: dict[str, Any]


@takes_paths
def trial(
    model: str,
    out: Path,
    *,
    traps: Path | None = None,
    measure: Measure | None = None,
    device: str = "auto",
    resume: bool = False,
    show_progress: bool = True,
) -> Trial:
    """Measure every trap with the model and compare, into the run folder ``out``.

    Without a folder of traps the testbed's own works are tested, on its two models alone. Raises TrapError, RunError,
    WeightsError, and UnsupportedError as encode_prompts says.
    """
    measure = measure or Measure()
    checkpoint = Checkpoint.of(model)
    if traps is None and checkpoint.truth is None:
        raise TrapError(f"Which traps {model} may have seen isn't known: give their folder with --traps.")
    known = read_traps(traps) if traps is not None else shipped_traps()
    subject = checkpoint.subject(device)
    encode_prompts(subject, [""])  # refuses other families before a run folder is made
    config = {"model": model, "traps": known.sha256, "measure": asdict(measure)}
    inputs = [] if traps is None else [describe_input(traps / "manifest.json")]
    sha256 = subject.sha256()
    with (
        Run.start(
            out,
            config,
            resume=resume,
            kind="traps",
            inputs=inputs,
            seeds=[measure.seed],
            model={"name": model, "sha256": sha256},
        ) as run,
        bars(show_progress) as track,
    ):
        _measure(run, subject, known, measure, track("traps"))
        rows = list(run.records())
        summary = {
            "format": 1,
            "model": model,
            "model_sha256": sha256,
            **config,
            "held_back": known.held_back,
            "rungs": compared(rows),
            "traps_measured": len(rows),
        }
        write_json(out / "summary.json", summary)
        run.finish("complete")
    return Trial(out, summary)


def _measure(run: Run, subject: Subject, known: Traps, measure: Measure, progress: Any) -> None:
    done, every = run.done_ids(), known.traps
    for start in range(0, len(every), measure.chunk):
        some = every[start : start + measure.chunk]
        names = [record_id(run.config, trap.caption, measure.seed, trap=trap.id) for trap in some]
        if not done.issuperset(names):
            for name, trap, scores in zip(names, some, measure.losses(subject, some), strict=True):
                if name not in done:
                    run.append(
                        {
                            "id": name,
                            "stage": "traps",
                            "item": trap.id,
                            "copies": trap.copies,
                            "prompt": trap.caption,
                            "seed": measure.seed,
                            "scores": scores,
                        }
                    )
        progress(start + len(some), len(every))


def compared(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each rung, and over all that were used at least once ("all"), each score's p and how far apart they are.

    ``alone`` counts the traps whose own p is at most ALONE; ``both`` doubles the smaller p of the two scores.
    """
    rungs = sorted({copies for record in records if (copies := record["copies"]) is not None})
    groups: dict[str, list[Record]] = {str(rung): [r for r in records if r["copies"] == rung] for rung in rungs}
    groups["all"] = [record for record in records if record["copies"]]
    held_back = [record for record in records if record["copies"] is None]
    return [_row(name, used, held_back) for name, used in groups.items() if used]


def _row(name: str, used: Sequence[Record], held_back: Sequence[Record]) -> dict[str, Any]:
    row: dict[str, Any] = {"copies": name, "n": len(used), "held_back": len(held_back)}
    for statistic in STATISTICS:
        ours, theirs = (
            [value for record in side if (value := record["scores"][statistic]) is not None]
            for side in (used, held_back)
        )
        row[statistic] = {
            "p": rank_p(ours, theirs),
            "auroc": auroc([-v for v in ours], [-v for v in theirs]),
            "alone": sum(single_p(value, theirs) <= ALONE for value in ours),
            "mean": sum(ours) / len(ours),
            "mean_held_back": sum(theirs) / len(theirs),
        }
    row["both"] = min(1.0, len(STATISTICS) * min(row[statistic]["p"] for statistic in STATISTICS))
    return row


def format_trial(summary: Mapping[str, Any]) -> list[str]:
    """A table for a terminal."""
    head = (
        f"{'copies':>8}{'traps':>7}"
        + "".join(f"{'p ' + name:>14}{'AUROC':>7}" for name in STATISTICS)
        + f"{'p both':>12}"
    )
    rows = [
        f"{row['copies']:>8}{row['n']:>7}"
        + "".join(f"{row[name]['p']:>14.3g}{row[name]['auroc']:>7.2f}" for name in STATISTICS)
        + f"{row['both']:>12.3g}"
        for row in summary["rungs"]
    ]
    return [f"{summary['model']}: against {summary['held_back']} traps that were held back", head, *rows]


def _picture(trap: Trap) -> Image.Image:
    try:
        return open_image(trap.file)
    except UNREADABLE as error:
        raise TrapError(f"{trap.file} can't be read as a picture: {reason_of(error)}.") from error
