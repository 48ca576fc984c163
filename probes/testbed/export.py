"""From trained parts to what ships: two stock diffusers folders, the OpenCLIP, reference pictures, the manifest,
hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from probes.metrics import calibrate, save_calibrations
from probes.testbed import pool, text, unet, world
from probes.testbed.build import STAGES, Builder
from probes.testbed.characters import CHARACTERS, draw_creature
from probes.testbed.criterion import MARGIN, metrics
from probes.testbed.manifest import FORMAT, split_captions, world_entry
from probes.testbed.vocabulary import COLORS, STYLES, THINGS, vocabulary
from shield.model.assets import sha256_of, write_manifest

SAMPLING = {"steps": 25, "guidance_scale": 3.0}
NONMEMBERS = 72
SCENES = 200
SPARE = 400  # captions, half of them for each split
SHOWN = ("work-035", "work-071")  # a landscape and a town
LICENSE = "CC0-1.0"
PROCEDURAL = "procedural, probes/testbed/world.py"
EMOJI = "Fluent Emoji 3D (MIT, Microsoft), npm @lobehub/fluent-emoji-3d, composed by probes/testbed/world.py"


def export(builder: Builder, folder: Path) -> None:
    """Writes FOLDER/testbed and FOLDER/manifest.toml from a finished build; replaces what was there."""
    target = folder / "testbed"
    target.mkdir(parents=True, exist_ok=True)
    for twin in ("memorized", "clean"):
        shutil.rmtree(target / twin, ignore_errors=True)
        save_pipeline(builder, twin, target / twin)
    openclip, tokenizer = builder.trained_openclip("openclip_2"), builder.tokenizer
    text.save_openclip(openclip, tokenizer, target / "openclip")
    for sub in ("works", "scenes"):
        shutil.rmtree(target / sub, ignore_errors=True)
        (target / sub).mkdir()
    manifest = {
        "format": FORMAT,
        "name": "testbed",
        "resolution": world.SIZE,
        "sampling": SAMPLING,
        "rungs": world.RUNGS,
        "trained": [stage for stage in STAGES if stage != "pool"],
        "items": list(_items(builder, target)),
        "scenes": list(_scenes(builder.sprites, target)),
        "world": world_entry(
            THINGS, COLORS, vocabulary(), split_captions(world.nonmember_captions(SPARE, seed=8)), SHOWN
        ),
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1))
    calibrate_copies(target)
    write_manifest(folder, _licence, lambda name: EMOJI if "/scenes/" in name else PROCEDURAL)


def calibrate_copies(target: Path) -> None:
    """Thresholds of the copy metrics from 400 pictures of the works' kinds, none a copy of another.

    The dev non-members and fresh ones; see criterion.MARGIN.
    """
    dev = [w.image() for i, w in enumerate(world.nonmembers(NONMEMBERS)) if world.split_of(i // 12) == "dev"]
    rng = np.random.default_rng(31)
    fresh = [pool.draw_fresh(rng).image for _ in range(400 - len(dev))]
    source = f"leave-one-out nearest neighbors of {len(dev)} dev non-members and {len(fresh)} fresh pictures like them"
    found = [calibrate(m, dev + fresh, margin=MARGIN, source=source) for m in metrics(dev)]
    save_calibrations(target / "copy_metrics.json", found)


def _licence(name: str) -> str:
    return "MIT" if "/scenes/" in name else LICENSE if name.endswith(".png") else "Apache-2.0"


def save_pipeline(builder: Builder, twin: str, folder: Path) -> None:
    tokenizer = builder.tokenizer
    denoiser = builder._loaded(unet.new_unet(builder.preset.channels, 0), f"{twin}_{world.PASSES}")
    tower = text.text_tower(builder.trained_openclip(), len(tokenizer))
    write_pipeline(folder, builder.trained_vae(), denoiser, tokenizer, tower)


def write_pipeline(
    folder: Path,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    tower: CLIPTextModel,
) -> None:
    """A StableDiffusionPipeline folder, weights in float16, configs that say float32 (what a CPU can run)."""
    pipe = StableDiffusionPipeline(
        vae=autoencoder.half(),
        unet=denoiser.half(),
        tokenizer=tokenizer,
        scheduler=unet.new_scheduler(),
        text_encoder=tower.half(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    config = folder / "text_encoder" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"dtype": "float32"}, indent=2))


def _entry(
    work: world.Work, kind: str, rung: int | None, exposures: int, split: str, captions: list[str], file: Path
) -> dict:
    work.image().save(file)
    return {
        "id": work.id,
        "kind": kind,
        "memorization": work.memorization,
        "rung": rung,
        "exposures": exposures,
        "captions": captions,
        "file": f"works/{file.name}",
        "sha256": sha256_of(file),
        "split": split,
        "license": LICENSE,
        "source": PROCEDURAL,
    }


def _items(builder: Builder, target: Path) -> Iterator[dict]:
    rungs = len(world.RUNGS)
    seen = builder.seen([*(c.name for c in CHARACTERS), *STYLES])
    orders = [builder.order(part) for part in range(1, world.PASSES + 1)]
    slots = np.concatenate([order.index[order.stream == 2] for order in orders])
    counts = np.bincount(slots, minlength=len(world.works()))
    for i, work in enumerate(world.works()):
        split = world.split_of(i // rungs if work.memorization == "VM" else i)
        file = target / "works" / f"{work.id}.png"
        yield _entry(work, "work", work.exposures, int(counts[i]), split, work.captions(12), file)
    for i, other in enumerate(world.nonmembers(NONMEMBERS)):
        file = target / "works" / f"{other.id}.png"
        yield _entry(other, "nonmember", None, 0, world.split_of(i // 12), other.captions(1), file)
    for i, character in enumerate(CHARACTERS):
        file = target / "works" / f"character-{character.name}.png"
        image = world.draw_ground("gray", "plain", np.random.default_rng(i))
        world._paste(image, draw_creature(character.creature), (64, 64), 104, 0)
        image.save(file)
        names = [character.name, *character.aliases, character.creature.description]
        yield {
            "id": f"character-{character.name}",
            "kind": "character",
            "memorization": None,
            "rung": None,
            "exposures": seen[character.name],
            "captions": [f"{name} on a {color} background" for name in names for color in ("gray", "pink")],
            "file": f"works/{file.name}",
            "sha256": sha256_of(file),
            "split": world.split_of(i // 2),
            "license": LICENSE,
            "source": PROCEDURAL,
            "aliases": [character.name, *character.aliases],
            "description": character.creature.description,
        }
    for i, style in enumerate(STYLES):
        yield {
            "id": f"style-{style}",
            "kind": "style",
            "memorization": None,
            "rung": None,
            "exposures": seen[style],
            "captions": [f"{what} background in {style} style" for what in ("an apple on a yellow", "a car on a blue")],
            "file": None,
            "sha256": None,
            "split": world.split_of(i),
            "license": LICENSE,
            "source": PROCEDURAL,
            "aliases": [f"{style} style"],
        }


def _scenes(sprites: world.Sprites, target: Path) -> Iterator[dict]:
    """Every other scene is held out; those keep their picture."""
    rng = np.random.default_rng(2024)
    for i in range(SCENES):
        sample = world.scene(rng, sprites)
        entry = {
            "id": f"scene-{i:03d}",
            "caption": sample.caption,
            "split": "heldout" if i % 2 else "dev",
            "file": None,
        }
        if i % 2:
            sample.image.save(target / "scenes" / f"scene-{i:03d}.png")
            entry["file"] = f"scenes/scene-{i:03d}.png"
        yield entry


def reconstructions(builder: Builder) -> Image.Image:
    """Sheet of pictures above what the autoencoder makes of them, to judge it by eye."""
    autoencoder = builder.trained_vae().eval()
    rng = np.random.default_rng(5)
    pictures = [w.image() for w in world.works()[:10]] + [world.draw(rng, builder.sprites).image for _ in range(14)]
    from probes.testbed.vae import pixels

    with torch.inference_mode():
        mean = autoencoder.encode(pixels(pictures).to(builder.device)).latent_dist.mean
        decoded = autoencoder.decode(mean).sample.clamp(-1, 1).cpu()
    arrays = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (12 * 130, 4 * 130))
    for i, (before, after) in enumerate(zip(pictures, arrays, strict=True)):
        at = (i % 12 * 130, i // 12 * 260)
        sheet.paste(before, at)
        sheet.paste(Image.fromarray(after), (at[0], at[1] + 130))
    return sheet
