"""diffshield bench: parsing only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.cli.app import App
from probes.cli.options import Device, Json, chosen, printed

Out = Annotated[Path, typer.Option(help="Folder for the figures as JSON, their plot and contact sheets.")]

Names = Annotated[str, typer.Option(help="Comma-separated; all by default.")]
Split = Annotated[str, typer.Option(help="dev or heldout; the other's figures are kept.")]
Runs = Annotated[Path, typer.Option(help="Folder for the run folders.")]
PromptsAtOnce = Annotated[int, typer.Option(help="Prompts at a time.")]
PicturesAtOnce = Annotated[int, typer.Option(help="Pictures at a time.")]

bench_app = App(help="Every method of a table on the testbed, held out, with controls.", no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Every method of a table on the testbed, held out, with controls."""


@bench_app.command()
def detectors(
    out: Out = Path("runs/bench"),
    names: Annotated[str, typer.Option(help="Comma-separated; by default those that need no whole picture.")] = "",
    seeds: Annotated[int, typer.Option(help="Noises for each caption.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Captions at a time.")] = 32,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """AUROC and TPR at 1 % FPR by rung, against matched non-members and scenes, with the twin and the text alone.

    Example: diffshield bench detectors --names noise_gap --seeds 2
    """
    from probes.bench.detectors import EARLY, SEEDS, bench_detectors, leaderboard, table
    from shield.detectors import DETECTORS

    early = [name for name, detector in DETECTORS.items() if detector().first_k <= EARLY]
    found = bench_detectors(
        out, chosen(names, DETECTORS, "detector", early), range(SEEDS[0], SEEDS[0] + seeds), batch_size, device, _said
    )
    _drawn(out, "detectors", found, as_json, f"{leaderboard(found)}\n\n{table(found)}")


@bench_app.command()
def shield(
    out: Out = Path("runs/bench"),
    parts: Annotated[
        str, typer.Option(help="Comma-separated, of works, characters and scenes; the others' figures are kept.")
    ] = "works,characters,scenes",
    ways: Annotated[
        str, typer.Option(help="Comma-separated: what is asked (bare, shield, ...); the others' figures are kept.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Noises for each work and guidance scale.")] = 4,
    runs: Annotated[Path, typer.Option(help="Folder for what was drawn.")] = Path("runs/bench-shield"),
    batch_size: PromptsAtOnce = 32,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Copies, protected characters and benign scenes that leave the shield, beside the bare pipeline's; resumes from
    what was drawn.

    Example: diffshield bench shield --parts works --seeds 2
    """
    from probes.bench.shield import PARTS, WAYS, bench_shield, table
    from probes.runs.progress import bars

    drawn, asked = chosen(parts, PARTS, "part"), chosen(ways, WAYS, "way")
    with bars() as track:
        named = cache(track)

        def progress(what: str, done: int, total: int) -> None:
            named(what)(done, total)

        found = bench_shield(
            out,
            pictures=runs,
            parts=drawn,
            ways=asked,
            seeds=seeds,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    _drawn(out, "shield", found, as_json, table(found))


@bench_app.command()
def mitigations(
    out: Out = Path("runs/bench"),
    names: Names = "",
    seeds: Annotated[int, typer.Option(min=1, help="Noises for each work.")] = 2,
    batch_size: PromptsAtOnce = 32,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Each mitigation alone: copies that come out, what scenes flagged by mistake lose, and what it costs.

    Example: diffshield bench mitigations --seeds 1
    """
    from probes.bench.mitigations import bench_mitigations, table
    from shield.mitigations import MITIGATIONS

    found = bench_mitigations(
        out, chosen(names, MITIGATIONS, "mitigation"), seeds=seeds, batch_size=batch_size, device=device, progress=_said
    )
    _drawn(out, "mitigations", found, as_json, table(found))


@bench_app.command()
def localizers(
    out: Out = Path("runs/bench"), batch_size: PicturesAtOnce = 32, device: Device = "auto", as_json: Json = False
) -> None:
    """What pruning does to memories that weren't located, over a wide sweep; and which parts carry them.

    Example: diffshield bench localizers --out runs/bench
    """
    from probes.bench.localizers import bench_localizers, table

    found = bench_localizers(out, batch_size=batch_size, device=device, progress=_said)
    _drawn(out, "localizers", found, as_json, table(found))


@bench_app.command()
def revival(
    out: Out = Path("runs/bench"), batch_size: PicturesAtOnce = 32, device: Device = "auto", as_json: Json = False
) -> None:
    """Filling in a pruned model's zeros: located against random masks, resampled weights and the clean twin.

    Example: diffshield bench revival --out runs/bench
    """
    from probes.bench.revival import bench_revival, table

    found = bench_revival(out, batch_size=batch_size, device=device, progress=_said)
    printed(found, as_json, table(found))


@bench_app.command()
def text_free(
    out: Out = Path("runs/bench"),
    runs: Runs = Path("runs/bench-text-free"),
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each work and level.")] = 1,
    as_json: Json = False,
) -> None:
    """Probes without text on the model as it is and pruned: completion, inpainting and noise, with controls.

    Example: diffshield bench text-free --out runs/bench
    """
    from probes.bench.text_free import bench_text_free, table

    found = bench_text_free(out, runs, seeds=seeds, progress=_said)
    printed(found, as_json, table(found))


@bench_app.command()
def resurgence(
    out: Out = Path("runs/bench"),
    runs: Runs = Path("runs/bench-resurgence"),
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of each work.")] = 1,
    as_json: Json = False,
) -> None:
    """Ordinary fine-tuning of the pruned model, and what comes back from captions then.

    Example: diffshield bench resurgence --out runs/bench
    """
    from probes.bench.resurgence import bench_resurgence, table

    found = bench_resurgence(out, runs, seeds=seeds)
    printed(found, as_json, table(found))


@bench_app.command()
def bypass(
    out: Out = Path("runs/bench"),
    works: Annotated[int, typer.Option(min=1, help="How many memorized works of the top rung are tried.")] = 5,
    as_json: Json = False,
) -> None:
    """Ways around the shield, and which layer notices each.

    Example: diffshield bench bypass --works 2
    """
    from probes.bench.bypass import bench_bypass, table

    found = bench_bypass(out, works)
    printed(found, as_json, table(found))


@bench_app.command("attacks")
def bench_of_attacks(
    out: Out = Path("runs/bench"),
    runs: Runs = Path("runs/bench-attacks"),
    seeds: Annotated[int, typer.Option(min=1, help="Noises for each picture.")] = 10,
    attacks: Annotated[str, typer.Option(help="Comma-separated; all by default, none for `none`.")] = "",
    hardeners: Annotated[str, typer.Option(help="Likewise.")] = "",
    as_json: Json = False,
) -> None:
    """Prune, attack in every way with controls, harden, attack again; resumes from its run folders, and keeps the
    figures of the attacks and hardeners that aren't named.

    Example: diffshield bench attacks --seeds 2 --attacks adversarial_embedding --hardeners none
    """
    from probes.bench.attacks import HARDENED, SEARCHES, attack_table, bench_attacks, hardening_table

    found = bench_attacks(
        out,
        runs,
        seeds=seeds,
        attacks=() if attacks == "none" else chosen(attacks, SEARCHES, "attack"),
        hardeners=() if hardeners == "none" else chosen(hardeners, HARDENED, "hardener"),
        progress=_said,
    )
    _drawn(out, "attacks", found, as_json, f"{attack_table(found)}\n\n{hardening_table(found)}")


@bench_app.command()
def traps(
    out: Out = Path("runs/bench"), runs: Runs = Path("runs/bench-traps"), device: Device = "auto", as_json: Json = False
) -> None:
    """Exact p-values that works were trained on, by rung, on both models; resumes from its run folders.

    Example: diffshield bench traps --out runs/bench
    """
    from probes.bench.traps import bench_traps, table

    found = bench_traps(out, runs, device)
    _drawn(out, "traps", found, as_json, table(found))


@bench_app.command()
def meaning(
    out: Out = Path("runs/bench"),
    encoder: Annotated[str, typer.Option(help="minilm, or what --openclip of calibrate-concepts takes.")] = "minilm",
    as_json: Json = False,
) -> None:
    """Indirect descriptions of registry concepts that the screen by meaning finds, and benign prompts that it flags.

    Example: diffshield bench meaning --encoder minilm
    """
    from probes.bench.meaning import bench_meaning, table

    found = bench_meaning(out, encoder)
    printed(found, as_json, table(found))


@bench_app.command()
def gallery(
    out: Out = Path("runs/bench"),
    share: Annotated[Path, typer.Option(help="Where Debian's packages put their pictures.")] = Path("/usr/share"),
    runs: Annotated[Path, typer.Option(help="Folder for what was looked up.")] = Path("runs/bench-gallery"),
    queries: Annotated[int, typer.Option(min=1, help="Protected pictures that each edit is tried on.")] = 200,
    others: Annotated[int, typer.Option(min=0, help="Pictures that copy nothing.")] = 5000,
    as_json: Json = False,
) -> None:
    """Copies that a gallery finds and what it takes for copies, by descriptor; resumes from its parts.

    Example: diffshield bench gallery --queries 20 --others 100
    """
    from probes.bench.gallery import bench_gallery, table
    from probes.runs.progress import bars

    with bars() as track:
        named = cache(track)

        def progress(what: str, done: int, total: int) -> None:
            named(what)(done, total)

        found = bench_gallery(out, parts=runs, share=share, queries=queries, others=others, progress=progress)
    printed(found, as_json, table(found))


@bench_app.command()
def rewordings(
    out: Out = Path("runs/bench"),
    runs: Annotated[Path, typer.Option(help="Folder for scores and judgements.")] = Path("runs/bench-rewordings"),
    split: Split = "heldout",
    works: Annotated[int, typer.Option(min=0, help="Memorized works, at random; 0: all of the split.")] = 0,
    sample: Annotated[float, typer.Option(help="Share of the flagged rewordings that are drawn to the end.")] = 0.5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Copies that leave when captions are reworded, by detector and points, with a gallery and without; resumes.

    Example: diffshield bench rewordings --out runs/bench
    """
    from probes.bench.rewordings import bench_rewordings, table
    from probes.runs.progress import bars

    with bars() as track:
        named = cache(track)

        def progress(what: str, done: int, total: int) -> None:
            named(what)(done, total)

        found = bench_rewordings(
            out, parts=runs, split=split, works=works or None, sample=sample, device=device, progress=progress
        )
    printed(found, as_json, table(found))


@bench_app.command()
def requests(
    out: Out = Path("runs/bench"),
    split: Split = "heldout",
    count: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 10,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """What is left of flagged requests: agreement with the request without its protected part, and copies.

    Example: diffshield bench requests --out runs/bench
    """
    from probes.bench.requests import bench_requests, table

    (split,) = chosen(split, ("dev", "heldout"), "split")
    found = bench_requests(out, split=split, count=count, device=device, progress=_said)
    printed(found, as_json, table(found))


@bench_app.command()
def hero(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("runs/bench/hero.png"),
    works: Annotated[str, typer.Option(help="Comma-separated ids of works; by default those of the README.")] = "",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The README's first picture: works, the bare model, behind the shield, the clean twin, on one noise.

    Example: diffshield bench hero --out runs/bench/hero.png
    """
    from probes.bench.hero import hero as draw

    statuses = draw(out, [name.strip() for name in works.split(",") if name.strip()], device=device)
    printed({"picture": str(out), "statuses": statuses}, as_json, f"{out}: {', '.join(statuses)}")


@bench_app.command()
def pages(root: Annotated[Path, typer.Option(help="Folder with README.md and docs.")] = Path(".")) -> None:
    """Fill the figures in README.md and docs in from the result files under docs, and draw their plots again.

    Example: diffshield bench pages --root .
    """
    from probes.bench.pages import fill
    from probes.bench.plots import draw

    draw(root / "docs" / "bench")
    typer.echo("\n".join(map(str, fill(root))) or "Every page was up to date.")


def _drawn(out: Path, name: str, found: Mapping[str, Any], as_json: bool, tables: str) -> None:
    """The end of a bench: its plot, and its tables on stdout."""
    from probes.bench.plots import draw

    draw(out, [name])
    printed(found, as_json, tables)


def _said(line: str) -> None:
    typer.echo(line, err=True)
