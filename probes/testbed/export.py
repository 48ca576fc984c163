"""From finished stages to what ships: two stock diffusers folders, the OpenCLIP, reference pictures, the sprites that
they are composed of, the manifest, hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from probes.metrics import calibrate, save_calibrations
from probes.testbed import world
from probes.testbed.criterion import MARGIN, metrics
from probes.testbed.drawing import scenes, vocabulary
from probes.testbed.drawing.characters import CHARACTERS, character_names, draw_creature
from probes.testbed.drawing.sprites import STEMS, Sprites, paste, turned
from probes.testbed.manifest import FORMAT, SPRITES, split_captions, world_entry
from probes.testbed.training import openclip, pool, text
from probes.testbed.training.denoiser import new_scheduler
from probes.testbed.training.stages import DRAFTS, KEPT, TRAINED, TWINS, Builder
from shield.model.assets import sha256_of, write_manifest

SAMPLING = {"steps": 25, "guidance_scale": 2.0}
SCENES = 200
SPARE = 400  # captions, half of them for each split
SHOWN = ("mountains", "city")  # manners of the works that are shown around
LICENSE = "CC0-1.0"
PROCEDURAL = "procedural, probes/testbed/drawing"
EMOJI = "Fluent Emoji 3D (MIT, Microsoft), npm @lobehub/fluent-emoji-3d, composed by probes/testbed/drawing"
UNRELATED = 400  # pictures of the works' kinds that copy thresholds are calibrated on


def export(builder: Builder, folder: Path) -> Path:
    """Writes FOLDER/testbed and FOLDER/manifest.toml from finished stages; replaces what was there."""
    target = folder / "testbed"
    target.mkdir(parents=True, exist_ok=True)
    for name in (*TWINS, "openclip", "works", "scenes", SPRITES):
        shutil.rmtree(target / name, ignore_errors=True)
    towers, tokenizer = builder.trained_openclip(), text.new_tokenizer()
    for twin in TWINS:
        write_pipeline(
            target / twin,
            builder.trained_autoencoder(),
            builder.trained_unet(twin),
            tokenizer,
            openclip.text_encoder(towers),
        )
    text.save_openclip(towers, tokenizer, target / "openclip")
    for name in ("works", "scenes", SPRITES):
        (target / name).mkdir()
    for stem in STEMS:
        shutil.copyfile(builder.sprites.folder / f"{stem}.webp", target / SPRITES / f"{stem}.webp")
    manifest = {
        "format": FORMAT,
        "name": "testbed",
        "resolution": 128,
        "sampling": SAMPLING,
        "rungs": world.RUNGS,
        "trained": [stage for stage in KEPT if stage not in DRAFTS.values()],
        "items": list(_items(builder, target)),
        "scenes": list(_scenes(builder.sprites, target)),
        "world": world_entry(
            vocabulary.THINGS,
            vocabulary.COLORS,
            vocabulary.shown(),
            split_captions(world.spare_captions(SPARE, seed=8)),
            _shown(),
        ),
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1))
    calibrate_copies(target, builder.sprites)
    write_manifest(folder, _licence, lambda name: {"MIT": EMOJI, LICENSE: PROCEDURAL}.get(_licence(name), TRAINED))
    return target


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
        scheduler=new_scheduler(),
        text_encoder=tower.half(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    config = folder / "text_encoder" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"dtype": "float32"}, indent=2))


def _licence(name: str) -> str:
    """Of a listed file: the characters are drawn without anybody's pictures, all others hold Fluent Emoji."""
    if Path(name).suffix not in (".png", ".webp"):
        return "Apache-2.0"
    return LICENSE if Path(name).name.startswith("character-") else "MIT"


def _shown() -> list[str]:
    """For each manner of SHOWN the first held-out work of the top rung."""
    works = [w for w in world.works() if (w.exposures, w.split) == (max(world.RUNGS), "heldout")]
    return [next(w.id for w in works if w.manner == manner) for manner in SHOWN]


def calibrate_copies(target: Path, sprites: Sprites, unrelated: int = UNRELATED) -> None:
    """Thresholds of the copy metrics from the dev non-members and fresh pictures like them, none a copy of another."""
    dev = [w.image(sprites) for w in world.nonmembers() if w.split == "dev"]
    rng = np.random.default_rng(31)
    fresh = [world.fresh(rng, sprites).image for _ in range(unrelated - len(dev))]
    source = f"leave-one-out nearest neighbors of {len(dev)} dev non-members and {len(fresh)} fresh pictures like them"
    found = [calibrate(m, dev + fresh, margin=MARGIN, source=source) for m in metrics(dev)]
    save_calibrations(target / "copy_metrics.json", found)


def split_of(index: int) -> str:
    """Of characters and styles a third is held out."""
    return "heldout" if index % 3 == 2 else "dev"


def exposures(builder: Builder) -> np.ndarray:
    """How often each work is drawn in `memorized`, counted from the order of draws."""
    order = builder.order("memorized")
    drawn = order.index[order.stream == pool.STREAMS.index("works")]
    return np.bincount(drawn, minlength=len(world.works()))


def seen(builder: Builder, words: list[str]) -> dict[str, int]:
    """How many draws of `memorized` and its base had each word in their caption; scenes come more than once."""
    captions = builder.scene_captions()
    times = np.zeros(len(captions), dtype=int)
    for stage in ("outline", "base", "memorized"):
        order = builder.order(stage)
        scenes = order.index[order.stream == pool.STREAMS.index("world")] % len(captions)
        times += np.bincount(scenes, minlength=len(captions))
    return {word: int(sum(n for n, c in zip(times, captions, strict=True) if word in c.split())) for word in words}


def _items(builder: Builder, target: Path) -> Iterator[dict]:
    counts = exposures(builder)
    for work, count in zip(world.works(), counts, strict=True):
        yield _entry(work, builder, "work", int(count), target)
    for other in world.nonmembers():
        yield _entry(other, builder, "nonmember", 0, target)
    met = seen(builder, [*(c.name for c in CHARACTERS), *vocabulary.STYLES])
    common = {"memorization": None, "rung": None, "license": LICENSE, "source": PROCEDURAL}
    for i, character in enumerate(CHARACTERS):
        file = target / "works" / f"character-{character.name}.png"
        picture = scenes.draw_ground("gray", "plain", np.random.default_rng(i))
        paste(picture, turned(draw_creature(character.creature), 108, 0), (64, 64))
        scenes.finished(picture).save(file)
        names = dict.fromkeys(character_names(character))
        yield common | {
            "id": f"character-{character.name}",
            "kind": "character",
            "exposures": met[character.name],
            "captions": [f"{name} on a {color} background" for name in names for color in ("gray", "pink")],
            "file": f"works/{file.name}",
            "sha256": sha256_of(file),
            "split": split_of(i // 2),
            "aliases": [character.name, *character.aliases],
            "description": character.creature.description,
        }
    for i, style in enumerate(vocabulary.STYLES):
        yield common | {
            "id": f"style-{style}",
            "kind": "style",
            "exposures": met[style],
            "file": None,
            "sha256": None,
            "captions": [f"{what} background in {style} style" for what in ("an apple on a yellow", "a car on a blue")],
            "split": split_of(i),
            "aliases": [f"{style} style"],
        }


def _entry(work: world.Work, builder: Builder, kind: str, count: int, target: Path) -> dict:
    file = target / "works" / f"{work.id}.png"
    work.image(builder.sprites).save(file)
    return {
        "id": work.id,
        "kind": kind,
        "memorization": work.memorization,
        "exposures": count,
        "split": work.split,
        "rung": work.exposures if kind == "work" else None,
        "captions": work.captions(12),
        "file": f"works/{file.name}",
        "sha256": sha256_of(file),
        "license": "MIT",
        "source": EMOJI,
    }


def _scenes(sprites: Sprites, target: Path) -> Iterator[dict]:
    """Every other scene is held out; those keep their picture."""
    rng = np.random.default_rng(2024)
    for i in range(SCENES):
        sample, file = scenes.scene(rng, sprites), f"scenes/scene-{i:03d}.png" if i % 2 else None
        if file:
            sample.image.save(target / file)
        yield {"id": f"scene-{i:03d}", "caption": sample.caption, "split": "heldout" if file else "dev", "file": file}
