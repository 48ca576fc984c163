"""A weights folder laid out like the shipped one, with tiny untrained models: the whole chain, without the effects."""

import hashlib
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from probes.metrics import calibrate, save_calibrations
from probes.testbed import world
from probes.testbed.criterion import MARGIN, metrics
from probes.testbed.drawing import vocabulary
from probes.testbed.manifest import split_captions, world_entry
from shield.model.assets import write_manifest
from tests.tiny import tiny_sd

RUNGS = (0, 6, 96, 384)


def tiny_testbed(folder: Path, captions: int = 200, scenes: int = 4, steps: int = 25) -> Path:
    """Writes twins, OpenCLIP, reference pictures and manifests; returns the folder for DIFFSHIELD_WEIGHTS.

    `captions`: how many spare ones each split has. `scenes`: of both splits together. `steps`: of a picture.
    """
    testbed = folder / "testbed"
    for name, seed in (("memorized", 0), ("clean", 1)):
        tiny_sd(seed=seed).save_pretrained(testbed / name)
    tiny_openclip(testbed / "openclip")
    items = [_item(testbed, f"work-{rung}-{n}", "work", rung, n) for rung in RUNGS for n in range(3)]
    items += [_item(testbed, f"nonmember-{n}", "nonmember", None, n) for n in range(8)]
    shown = [
        {"id": f"scene-{n}", "caption": f"a red thing {n}", "split": ("dev", "heldout")[n % 2]} for n in range(scenes)
    ]
    manifest = {
        "format": 1,
        "name": "testbed",
        "resolution": 64,
        "sampling": {"steps": steps, "guidance_scale": 5.0},
        "rungs": list(RUNGS),
        "items": items,
        "scenes": shown,
        "world": world_entry(
            vocabulary.THINGS,
            vocabulary.COLORS,
            vocabulary.shown(),
            split_captions(world.spare_captions(2 * captions, seed=8)),
            [f"work-{RUNGS[-1]}-0"],
        ),
    }
    (testbed / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    background = [item for item in items if (item["kind"], item["split"]) == ("nonmember", "dev")]
    pictures = [Image.open(testbed / item["file"]).convert("RGB") for item in background]
    calibrated = [calibrate(metric, pictures, margin=MARGIN, source="tiny non-members") for metric in metrics(pictures)]
    save_calibrations(testbed / "copy_metrics.json", calibrated)
    (folder / "thresholds").mkdir()
    write_manifest(folder, "CC0-1.0", "made by a test")
    return folder


def _item(testbed: Path, name: str, kind: str, rung: int | None, number: int) -> dict:
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    picture = Image.effect_mandelbrot((64, 64), (-2 + place % 7 / 4, -1, 1, 1), 15 + place % 97).convert("RGB")
    file = testbed / "works" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    fill = (place % 251, place // 251 % 251, place // 63001 % 251)
    picture.rotate(place % 360, fillcolor=fill).save(file)
    return {
        "id": name,
        "kind": kind,
        "memorization": "VM" if kind == "work" else None,
        "rung": rung,
        "exposures": rung or 0,
        "captions": [f"the cat {name}"],
        "file": f"works/{name}.png",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "split": "heldout" if number % 3 == 0 else "dev",
        "license": "CC0-1.0",
        "source": "procedural",
        "aliases": [],
        "description": None,
    }


def tiny_openclip(folder: Path) -> None:
    """An untrained OpenCLIP in the layout that open_clip's own loader reads."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = open_clip.CLIP(**config).state_dict()
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))


def calibrating(negatives):
    """Arguments of `diffshield calibrate` on a few negatives, which are written to a file."""
    negatives.write_text("".join(f"the cat {n}\n" for n in range(7)))
    usual = ("--detectors", "structure_gap", "--seeds", 3, "--fpr", 0.05, "--steps", 2, "--device", "cpu")
    return ("calibrate", "--prompts", negatives, *usual)
