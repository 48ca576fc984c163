"""The README's first picture: works beside what comes out without the shield, with it, and on the twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from probes.model.generate import generate, generators, quiet
from probes.testbed.checkpoint import TWINS, Checkpoint
from probes.testbed.manifest import Item, load_manifest
from shield.errors import BadRequestError
from shield.protected.pictures import open_image
from shield.wrapper import Shield

COLUMNS = ("original", "bare model", "behind the shield", "clean twin")
SIDE, GAP, BAND = 192, 8, 24


def hero(out: Path, works: Sequence[str] = (), *, steps: int | None = None, device: str = "auto") -> list[str]:
    """Draws the strip into the file `out`, seed 0; returns what the shield decided on each work.

    Args:
        out: The picture to write, a .png.
        works: Ids of the testbed's works, one row each; by default those that its manifest shows around.
        steps: Denoising steps; the model's own by default.
        device: Where the models run.

    Raises:
        BadRequestError: An id is no work's, or the work has no picture.
    """
    manifest = load_manifest()
    works = works or manifest.world.shown
    known = {item.id: item for item in manifest.works() if item.file is not None and item.captions}
    if unknown := [name for name in works if name not in known]:
        raise BadRequestError(f"The testbed has no work {unknown[0]!r}; its works are {', '.join(known)}.")
    shown = [known[name] for name in works]
    bare, shielded, statuses, clean = _drawn(shown, steps, device)
    originals = [open_image(item.file) for item in shown if item.file is not None]
    picture = strip(list(zip(originals, bare, shielded, clean, strict=True)), [item.captions[0] for item in shown])
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256).save(out, optimize=True)
    return statuses


def _drawn(
    works: Sequence[Item], steps: int | None, device: str
) -> tuple[list[Image.Image], list[Image.Image], list[str], list[Image.Image]]:
    """Pictures of the bare model, behind the shield with its verdicts' statuses, and of the clean twin."""
    checkpoint = Checkpoint.of("testbed").loaded(device)
    steps, scale = checkpoint.sampling(steps)
    prompts, seeds = [item.captions[0] for item in works], [0] * len(works)
    bare = generate(checkpoint.pipe, prompts, seeds, steps=steps, guidance_scale=scale)
    with torch.no_grad(), quiet(checkpoint.pipe):
        output = Shield(checkpoint.pipe)(
            prompts, num_inference_steps=steps, guidance_scale=scale, generator=generators(seeds)
        )
    twin = Checkpoint.of(TWINS["testbed"]).loaded(device).pipe
    clean = generate(twin, prompts, seeds, steps=steps, guidance_scale=scale)
    return bare, output.images, [verdict.status for verdict in output.verdicts], clean


def strip(rows: Sequence[Sequence[Image.Image]], names: Sequence[str]) -> Image.Image:
    """Pictures under COLUMNS, each row above its name; white all around, so that it can be read in the dark."""
    wide, high = SIDE + GAP, SIDE + BAND
    made = Image.new("RGB", (len(COLUMNS) * wide + GAP, BAND + len(rows) * high), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    for place, column in enumerate(COLUMNS):
        draw.text((GAP + place * wide, 3), column, fill="black", font=font)
    for line, (row, name) in enumerate(zip(rows, names, strict=True)):
        top = BAND + line * high
        for place, picture in enumerate(row):
            small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            made.paste(small, (GAP + place * wide, top))
        draw.text((GAP, top + SIDE + 3), f"“{name}”", fill="#444444", font=font)
    return made
