"""What is left of requests: which ones are asked, and figures of verdicts and pictures by hand."""

from PIL import Image

from probes.bench.mitigations import MISTAKE
from probes.bench.requests import FlaggedRequest, _figures, requests_of, table
from probes.testbed.manifest import load_manifest
from shield.protected.pictures import open_image
from shield.types import Verdict


def test_each_kind_has_a_reduced_request_without_its_protected_part():
    made, manifest = requests_of("dev", 3), load_manifest()
    caption = manifest.works("dev", manifest.rungs[-2], "VM")[0].captions[0]
    assert [one.kind for one in made] == ["captions"] * 3 + ["mixtures"] * 3 + ["mistakes"] * 3
    subject = caption.partition(",")[0].split()[-1]
    assert (made[0].prompt, made[0].reduced) == (caption, f"a painting of a {subject}")
    assert all(one.prompt.endswith(f" and {one.reduced}") for one in made[3:6])
    assert all(MISTAKE.found(one.prompt) and not MISTAKE.found(one.reduced) for one in made[6:])
    assert len({one.seed for one in made}) == len(made)


def test_agreement_copies_and_what_left_nothing_are_of_flagged_requests_alone():
    """Real scenes with their own captions agree more than gray pictures; a work is a copy, and a pass isn't counted."""
    scenes = [scene for scene in load_manifest().scenes("heldout") if scene.file][:3]
    work = next(w for w in load_manifest().works("dev") if w.file)
    requests = [FlaggedRequest("mixtures", "x", scene.caption, 0) for scene in scenes]
    right, gray = [open_image(scene.file) for scene in scenes], Image.new("RGB", (128, 128), "gray")
    pictures = {"bare": right, "default": [right[0], open_image(work.file), gray], "other": [gray, gray, gray]}
    states = [("mitigated", "embedding_mix"), ("mitigated", "null_prompt"), ("passed", None)]
    ours = [Verdict(n, "x", status, mitigation=how, rewritten_prompt="y") for n, (status, how) in enumerate(states)]
    none = [Verdict(n, "x", "blocked") for n in range(3)]
    made = _figures(requests, pictures, {"default": ours, "other": none}, [open_image(work.file)])
    about = made["kinds"]["mixtures"]
    rows = about["ways"]
    assert (about["requests"], about["flagged"]) == (3, 2) and made["rewritten"] == [("x", "y"), ("x", "y")]
    assert (
        rows["bare"]["agreement"]["value"] > rows["default"]["agreement"]["value"] > rows["other"]["agreement"]["value"]
    )
    assert [rows[way]["copies"] for way in ("bare", "default", "other")] == [0, 1, 0]
    assert [(rows[way]["nothing_left"], rows[way]["blocked"]) for way in ("default", "other")] == [(1, 0), (2, 2)]
    assert "| dev | mixtures, 2 of 3 | bare |" in table({"splits": {"dev": made}})
