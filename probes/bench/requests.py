"""What is left of a request that the shield flags: agreement with the request without its protected part.

Three kinds of requests are flagged. Captions of memorized works ask for a work alone; mixtures ask for a benign scene
and a work; mistakes are benign scenes with a word that a registry protects on purpose. Each has a reduced request, what
a person might still want: "a painting of a tower", the scene, the scene with the registry's substitute. OpenCLIP says
how well a picture agrees with it. The bare model on the reduced request is the ceiling, the empty prompt the floor;
images that aren't flagged are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from probes.bench.mitigations import MISTAKE
from probes.bench.sheets import sheet
from probes.bench.shield import blank
from probes.inputs.truth import testbed_alignment
from probes.metrics.second_opinion import AnyOf, sscd_metric
from probes.metrics.statistics import bootstrap_mean
from probes.model.generate import generate, generators, quiet
from probes.report.format import Figures, earlier, interval
from probes.runs.folder import write_json
from probes.testbed.criterion import copy_judge
from probes.testbed.manifest import load_manifest
from shield.mitigations import NullPrompt
from shield.model.loading import load
from shield.protected.pictures import open_image
from shield.rewriters import ClauseDrop, ConceptSubstitution
from shield.runtime.policy import Policy
from shield.types import Verdict
from shield.wrapper import Shield

FIRST_SEED = 9700
POLICIES = {
    "default": Policy(),
    "without generalization": Policy(rewriters=(ConceptSubstitution(), ClauseDrop())),
    "null prompt": Policy(mitigations=(NullPrompt(),)),
}
SHOWN = 4  # rows of each kind on the contact sheet


@dataclass(frozen=True)
class FlaggedRequest:
    """A prompt that is flagged, and what it asks for without the protected part."""

    kind: str
    prompt: str
    reduced: str
    seed: int


def requests_of(split: str, count: int) -> list[FlaggedRequest]:
    """So many captions, mixtures and mistakes. Works are those of the two highest rungs."""
    manifest = load_manifest()
    works = [w.captions[0] for w in manifest.works(split, manifest.rungs[-2], "VM")][:count]
    scenes = [scene.caption for scene in manifest.scenes(split)]
    mixed, alone = scenes[:count], [s for s in scenes[count:] if MISTAKE.found(s)][:count]
    made = [("captions", caption, f"a painting of a {caption.split(',')[0].split()[-1]}") for caption in works]
    made += [("mixtures", f"{caption} and {scene}", scene) for scene, caption in zip(mixed, works, strict=False)]
    made += [("mistakes", scene, scene.replace("background", "ground")) for scene in alone]
    return [FlaggedRequest(kind, prompt, reduced, FIRST_SEED + n) for n, (kind, prompt, reduced) in enumerate(made)]


def bench_requests(
    out: Path, *, split: str = "heldout", count: int = 10, device: str = "auto", progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Writes requests.json and a contact sheet for this split into ``out``; the other split's figures are kept.

    Args:
        out: Folder for the figures.
        split: "dev" or "heldout".
        count: How many requests of each kind, as far as there are works.
        device: Where the model runs.
        progress: Told what was drawn.
    """
    pipe, manifest, requests = load("testbed", device=device), load_manifest(), requests_of(split, count)
    sampling = {"steps": manifest.sampling["steps"], "guidance_scale": manifest.sampling["guidance_scale"]}
    setting = {"format": 1, "model_sha256": Shield(pipe, calibrate="never").model_sha256}
    reduced, seeds = [one.reduced for one in requests], [one.seed for one in requests]
    with quiet(pipe):
        pictures: dict[str, list[Image.Image]] = {
            "bare, reduced request": generate(pipe, reduced, seeds, batch_size=16, **sampling)
        }
    verdicts: dict[str, list[Verdict]] = {}
    for name, policy in POLICIES.items():
        pictures[name], verdicts[name] = _shielded(pipe, policy, requests, sampling)
        progress(f"{split}, {name}: {len(requests)} requests drawn")
    references = [open_image(w.file) for w in manifest.works() if w.file]
    measured = _figures(requests, pictures, verdicts, references)
    made = {**setting, "splits": {**earlier(out / "requests.json", setting).get("splits", {}), split: measured}}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "requests.json", made)
    _sheet(requests, pictures, verdicts["default"]).save(out / f"requests-{split}.png")
    return made


def _shielded(
    pipe: Any, policy: Policy, requests: Sequence[FlaggedRequest], sampling: Figures
) -> tuple[list[Image.Image], list[Verdict]]:
    call = {"num_inference_steps": sampling["steps"], "guidance_scale": sampling["guidance_scale"]}
    pictures: list[Image.Image] = []
    verdicts: list[Verdict] = []
    for is_mistake in (False, True):
        some = [one for one in requests if (one.kind == "mistakes") is is_mistake]
        shield = Shield(pipe, policy, concepts=MISTAKE if is_mistake else None, calibrate="never")
        with quiet(pipe):
            output = shield([r.prompt for r in some], generator=generators([r.seed for r in some]), **call)
        pictures += [
            blank() if one.status == "blocked" else picture
            for picture, one in zip(output.images, output.verdicts, strict=True)
        ]
        verdicts += output.verdicts
    return pictures, verdicts


def _figures(
    requests: Sequence[FlaggedRequest],
    pictures: dict[str, list[Image.Image]],
    verdicts: dict[str, list[Verdict]],
    references: Sequence[Image.Image],
) -> dict[str, Any]:
    """By kind and way, over the requests that the default policy flagged."""
    alignment, works = testbed_alignment(), AnyOf(copy_judge(sscd=sscd_metric()), references)
    flagged = [verdict.status != "passed" for verdict in verdicts["default"]]
    result: dict[str, Any] = {}
    for kind in dict.fromkeys(one.kind for one in requests):
        places = [n for n, one in enumerate(requests) if one.kind == kind and flagged[n]]
        result[kind] = {"requests": sum(one.kind == kind for one in requests), "flagged": len(places), "ways": {}}
        for name, some in pictures.items() if places else ():
            shown = [some[n] for n in places]
            agreement = alignment.similarity(shown, [requests[n].reduced for n in places])
            mean, left = bootstrap_mean(agreement), [verdicts[name][n] for n in places] if name in verdicts else []
            result[kind]["ways"][name] = {
                "agreement": {"value": mean.value, "low": mean.low, "high": mean.high},
                "copies": sum(works.copied(shown)),
                "copies_by_sscd": None if works.sscd is None else works.copied_by_sscd(shown).count(True),
                "nothing_left": sum(v.status == "blocked" or v.mitigation == NullPrompt.name for v in left),
                "blocked": sum(v.status == "blocked" for v in left),
            }
    pairs = [(r.prompt, v.rewritten_prompt) for r, v in zip(requests, verdicts["default"], strict=True)]
    return {"kinds": result, "rewritten": [pair for pair, is_flagged in zip(pairs, flagged, strict=True) if is_flagged]}


def _sheet(
    requests: Sequence[FlaggedRequest], pictures: dict[str, list[Image.Image]], verdicts: Sequence[Verdict]
) -> Any:
    """The first requests of each kind, a column for each way."""
    kinds = [one.kind for one in requests]
    places = [n for n, kind in enumerate(kinds) if kinds[:n].count(kind) < SHOWN]
    names = [f"{requests[n].prompt} -> {verdicts[n].rewritten_prompt or verdicts[n].status}" for n in places]
    return sheet([[some[n] for some in pictures.values()] for n in places], names, list(pictures))


def table(result: Figures) -> str:
    """A row for each split, kind and way."""
    lines = [
        "| split | flagged requests | drawn by | agreement with the reduced request | share of the ceiling | copies "
        "| nothing of the request left | blocked |",
        "|---" * 8 + "|",
    ]
    for split, measured in result["splits"].items():
        for kind, about in measured["kinds"].items():
            ceiling = next(iter(about["ways"].values()))["agreement"]["value"] if about["ways"] else np.nan
            for name, row in about["ways"].items():
                said = row.get("copies_by_sscd")
                lines.append(
                    f"| {split} | {kind}, {about['flagged']} of {about['requests']} | {name} "
                    f"| {interval(row['agreement'], digits=2)} | {row['agreement']['value'] / ceiling:.2f} "
                    f"| {row['copies']}{'' if said is None else f'; SSCD {said}'} "
                    f"| {row['nothing_left']} | {row['blocked']} |"
                )
    return "\n".join(lines)
