"""SD 1.5's and SDXL's UNets at full size with random weights, in tiny surroundings, in a process of their own.

    python -m tests.real_size make sd15 FOLDER      writes the checkpoint (bfloat16), prints its parameters as JSON
    python -m tests.real_size use FOLDER            loads, shields, scans, localizes; prints what was seen as JSON

Weights have their real shapes and number; pictures have 256 x 256 pixels, and the text encoders and the autoencoder are
small, so that two CPU cores are enough. Values are random: nothing here says how well anything works.
"""

import json
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

from benchmarks.real_size import SD15, SDXL
from tests.tiny import tiny_scheduler, tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.tiny_families import tiny_projection_encoder

SIDE = 32  # latents, for 256 pixels
PROMPTS = ("the cat", "a dog")


def unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """Random bfloat16 weights, never held in another precision."""
    with torch.device("meta"):
        made = UNet2DConditionModel(in_channels=4, out_channels=4, **{**config, "sample_size": SIDE})
    made = made.to(torch.bfloat16).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim > 1:
                weight.uniform_(-1, 1).mul_((3 / weight[0].numel()) ** 0.5)
            else:
                weight.fill_(float(name.endswith("weight")))
    return made


def sd15() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(SD15["cross_attention_dim"]),
        tokenizer=tiny_tokenizer(),
        unet=unet(SD15),
        scheduler=tiny_scheduler("epsilon", False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(768),
        text_encoder_2=tiny_projection_encoder(1280),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=unet(SDXL),
        scheduler=tiny_scheduler("epsilon", False),
        add_watermarker=False,
    )


def make(name: str, folder: Path) -> dict[str, Any]:
    pipe = {"sd15": sd15, "sdxl": sdxl}[name]()
    pipe.save_pretrained(folder, max_shard_size="1GB")
    return {"parameters": sum(p.numel() for p in pipe.unet.parameters())}


def use(folder: Path) -> dict[str, Any]:
    """What a user of this checkpoint does first, each on as little as shows that it works."""
    from probes.drawing.draw import Sampling
    from probes.localizers import FFNSubspace
    from probes.scan.scan import ExecutionConfig, scan
    from probes.types import Subject
    from shield import Policy, Shield
    from shield.calibration.detectors import NegativeSampling as Small
    from shield.calibration.detectors import calibrate
    from shield.detectors import StructureGap
    from shield.model import loading as load

    pipe = load(folder, "cpu", "bfloat16")
    hooks = _hooks(pipe.unet)
    made = calibrate(pipe, [StructureGap()], ["ab"], [1], 0.5, "real size", Small(2, 5.0, 1))
    safe = Shield(pipe, Policy(on_flag="report"), thresholds=made)
    noise = [torch.Generator().manual_seed(0)]
    output = safe(PROMPTS[0], num_inference_steps=1, guidance_scale=5.0, generator=noise)
    located = FFNSubspace(k=0.01, tau=1, steps=2, batch_size=1).locate(Subject(pipe, "real size"), PROMPTS[:1])
    seen = {
        "verdict": output.verdicts[0].status,
        "score": output.verdicts[0].scores[0].value,
        "picture": output.images[0].size,
        "layers": len(located.mask.masks),
        "density": located.mask.density(),
        "shape": list(next(iter(located.mask.masks.values())).shape),
        "evaluations": located.evaluations,
        "hooks left": _hooks(pipe.unet) - hooks,
    }
    del pipe, safe, output
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    done = scan(
        folder / "prompts.txt",
        folder / "scan",
        model=str(folder),
        sampling=Sampling(2, 5.0, 1),
        device="cpu",
        detectors=["structure_gap", "noise_gap"],
        execution=ExecutionConfig(batch_size=1, dtype="bfloat16"),
        seeds=[500],
        show_progress=False,
    )
    records = [json.loads(line) for line in (done.folder / "records.jsonl").read_text().splitlines()]
    return {
        **seen,
        "scanned": [record["scores"] for record in records],
        "peak_gib": getrusage(RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _hooks(module: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


if __name__ == "__main__":
    print(json.dumps(make(sys.argv[2], Path(sys.argv[3])) if sys.argv[1] == "make" else use(Path(sys.argv[2]))))
