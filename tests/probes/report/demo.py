"""A run folder as an audit writes it, without a model."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.runs.folder import Run, record_id

EVIL = '"><script>alert(1)</script> {{ 7 * 7 }} ünïcödé'


def picture(folder: Path, stage: str, name: str, seed: int) -> str:
    path = folder / "pictures" / stage / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((128, 128), Image.Resampling.BICUBIC).save(path)
    return path.relative_to(folder).as_posix()


def record(
    folder: Path,
    stage: str,
    item: dict[str, Any],
    seed: int | None,
    copied: bool | None,
    *,
    drawn: bool = True,
    steps: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One record as probes/runs/records.py describes it; a copy looks like its work, anything else doesn't."""
    looks = item["look"] if copied or stage == "work" else 1000 + 17 * item["look"] + (seed or 0)
    path = picture(folder, stage, f"{item['item']}-s{seed}-a{steps}", looks) if drawn else None
    known = {key: value for key, value in item.items() if key != "look"}
    return {
        "id": record_id({}, item["prompt"], seed, stage=stage, item=item["item"], steps=steps),
        "stage": stage,
        **known,
        "split": "heldout",
        "model": "testbed",
        "seed": seed,
        "attack_steps": steps,
        "picture": path,
        "scores": {"tiled_l2": 0.05 if copied else 0.31, "pdq": None},
        "copied": copied,
        "unjudged": "tiled_l2 can't score it" if copied is None else None,
        **more,
    }


def work(number: int, rung: int) -> dict[str, Any]:
    return {
        "item": f"work-{number:03d}",
        "kind": "work",
        "memorization": "VM",
        "rung": rung,
        "exposures": rung - 3,
        "prompt": EVIL if number == 0 else f'"Harbor no. {number}" by Ada Reed',
        "look": number,
    }


def stranger(number: int) -> dict[str, Any]:
    return {
        "item": f"nonmember-{number:03d}",
        "kind": "nonmember",
        "memorization": None,
        "rung": 0,
        "exposures": 0,
        "prompt": f'"Night {number}" by Tom Hale',
        "look": 500 + number,
    }


def demo_run(folder: Path) -> Path:
    """A run of 3 works at 1024 exposures, 3 at 24, and 3 non-members, two seeds each, with every stage."""
    with Run.create(
        folder, {"model": "testbed", "prompt": EVIL}, kind="audit", model={"name": "testbed"}, seeds=[0, 1]
    ) as run:
        members, others = [work(n, 1024) for n in range(3)], [stranger(n) for n in range(3)]
        for item in [*members, *[work(n, 24) for n in range(3, 6)], *others]:
            top = item["rung"] == 1024
            run.append(record(folder, "work", item, None, None))
            for seed in (0, 1):
                run.append(record(folder, "before", item, seed, top))
                if top:
                    run.append(
                        record(
                            folder,
                            "shielded",
                            item,
                            seed,
                            False,
                            drawn=seed == 0,
                            flagged=True,
                            action="mitigate" if seed == 0 else "block",
                            reason="the gap is over its limit",
                        )
                    )
                    run.append(record(folder, "twin", item, seed, False))
                    run.append(record(folder, "pruned", item, seed, False))
                if top or item["kind"] == "nonmember":
                    stage = "attacked" if top else "nonmember_attacked"
                    run.append(record(folder, stage, item, seed, False, steps=0))
                    run.append(record(folder, stage, item, seed, top, steps=50))
                    if top:
                        run.append(record(folder, "twin_attacked", item, seed, None if seed else False, steps=50))
                    again = "hardened_attacked" if top else "hardened_nonmember_attacked"
                    run.append(record(folder, "hardened", item, seed, False))
                    run.append(record(folder, again, item, seed, item["look"] == 0, steps=50))
                if top and seed == 0:
                    run.append(record(folder, "surrogates", item, seed, False))
        run.append(record(folder, "kept", {**stranger(9), "kind": "kept"}, 0, None))
        run.finish()
    return folder
