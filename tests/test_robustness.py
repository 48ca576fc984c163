"""Whatever is in a file that a user gives: a correct result, or the project's own error in one sentence.

10,000 files that are nearly right (tests/mutations.py), the same ones every time. A few of each kind run with the fast
tests. Whoever finds a file that breaks a reader adds it to test_found.
"""

import base64
import io
import json
import random
import re
import struct
import traceback
import warnings
import zlib
from collections import Counter
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save

from probes.audit.norms import load_norms
from probes.inputs.pictures import reference_picture
from probes.inputs.prompts import read_prompts
from probes.metrics import load_calibrations
from probes.report.html import write_report
from probes.report.sheets import thumbnail
from probes.runs.folder import Run
from probes.runs.stage_log import Stages
from probes.runs.tensors import read_tensors
from probes.testbed.manifest import load_manifest
from probes.traps.folder import read_traps
from probes.traps.make import Ladder, make
from probes.types import UnitMask
from probes.verbs.calibrate_copies import read_picture
from shield.errors import ShieldError
from shield.model.assets import read_manifest
from shield.protected.concepts import Concepts
from shield.protected.gallery import Gallery, opened
from shield.thresholds import load_thresholds
from tests.mutations import mutated, mutated_json
from tests.probes.tiny_testbed import tiny_testbed

FAST = 25
ROOT = Path(__file__).resolve().parents[1]
SETTING = {
    "model_sha256": "a",
    "latent_shape": [4, 8, 8],
    "timesteps": [999.0],
    "steps": 25,
    "guidance_scale": 5.0,
    "scheduler": "DDIMScheduler",
    "prediction": "v_prediction",
    "dtype": "float32",
    "distilled_guidance": None,
}
THRESHOLD = {
    "format": 1,
    "detector": "noise_gap",
    "options": {"k": 1, "more": [1, 2]},
    "model": "tiny",
    "value": 0.5,
    "setting": SETTING,
    "fpr": 0.01,
    "negatives": 100,
    "interval": [0.4, 0.6],
    "provenance": {"seeds": [1]},
}
METRIC = {
    "preprocessing": "64",
    "higher_is_copy": False,
    "threshold": 0.1,
    "n": 9,
    "unscored": 0,
    "nearest": 0.3,
    "median": 0.4,
    "margin": 0.1,
    "false_copies": 0,
    "false_copy_high": 0.2,
    "source": "x",
}
CONFIG = {"model": "testbed", "steps": 25}
RECORD = {
    "id": "a",
    "stage": "before",
    "item": "prompt-1",
    "kind": "work",
    "memorization": "VM",
    "rung": 64,
    "exposures": 64,
    "split": "dev",
    "model": "tiny",
    "prompt": "a cat",
    "seed": 0,
    "picture": "pictures/a.png",
    "scores": {"tiled_l2": 0.2},
    "copied": False,
    "unjudged": None,
    "flagged": None,
    "attack_steps": None,
}
TOML = b"""[[concept]]
name = "Bolto"
kind = "character"
aliases = ["Bolto the robot", 'b0lt0']
descriptions = ["the red robot with one wheel"]
substitute = "a friendly robot"
allow = ["boltor"]
[[concept]]
name = "Anna Mueller"
kind = "person"
"""


def a_picture(kind):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).convert("P" if kind == "GIF" else "RGB").save(stream, kind)
    return stream.getvalue()


def a_table():
    stream = io.BytesIO()
    parquet.write_table(
        pyarrow.table({"prompt": ["a cat", "zwölf", None], "n": [1, 2, 3], "file": ["a.png", "", "b"]}), stream
    )
    return stream.getvalue()


PICTURES = {kind: a_picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
TEXTS = {
    "txt": "a cat\n\nein Hündchen\r\nzzz\n".encode(),
    "parquet": a_table(),
    "csv": b'id,prompt,picture\n1,"a cat, red; and\na dog",a.png\n2,b,\n',
    "tsv": b"Caption\tfile\none\ta.png\n",
    "jsonl": b'{"caption": "one", "file_name": "a.png"}\n"two"\n\n{"caption": "\\u00fc"}\n',
}
MASK = save(
    {"up.0.ff.net.2": torch.ones(3, 4, dtype=torch.uint8), "b.10": torch.zeros(2, dtype=torch.uint8)},
    {"unit_mask": "1", "meta": json.dumps({"model_sha256": "x", "k": "0.05"})},
)
TENSORS = save({"0": torch.ones(2, 3), "50": torch.zeros(2, 3, dtype=torch.float16)}, {"prompts": '{"0": "a"}'})
NORMS = save(
    {"target/a": torch.ones(2), "base/a": torch.ones(2)},
    {"norms": "1", "localizer": json.dumps({"k": 0.05, "tau": 6, "base": []})},
)


class Folders:
    """Good folders of each kind, made once; each case damages a file of one and reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        make(root / "traps", Ladder(1, (1, 2), 2, 32), seed=1, show_progress=False)
        gallery = Gallery()
        gallery.add([("one", Image.open(io.BytesIO(PICTURES["PNG"])))])
        gallery.save(root / "gallery")
        self.weights = tiny_testbed(root / "weights")
        with Run.create(root / "run", CONFIG, kind="scan") as run:
            for number in range(4):
                run.append({**RECORD, "id": str(number), "seed": number})
            run.finish()

    def file(self, suffix: str, data: bytes) -> Path:
        reference_picture.cache_clear()
        path = self.scratch / f"case.{suffix}"
        path.write_bytes(data)
        return path

    def damaged(self, path: Path, data: bytes, read) -> None:
        """The reader on a folder in which one file has these bytes; the file is as it was afterwards."""
        before = path.read_bytes()
        try:
            path.write_bytes(data)
            read()
        finally:
            path.write_bytes(before)


def prompts(f, draw):
    suffix, data = draw.choice(list(TEXTS.items()))
    column = draw.choice([None, None, "prompt", "file", ""])
    found = read_prompts(f.file(suffix, mutated(data, draw)), column=column, limit=draw.choice([None, 2]))
    assert found and all(isinstance(t.prompt, str) and t.prompt.strip() == t.prompt != "" for t in found)
    assert len({target.id for target in found}) == len(found)


def pictures(f, draw):
    kind, data = draw.choice(list(PICTURES.items()))
    path = f.file(kind.lower(), mutated(data, draw))
    read = draw.choice([opened, read_picture, reference_picture, lambda path: thumbnail(path.parent, path.name)])
    found = read(path)
    if isinstance(found, Image.Image):
        assert found.mode == "RGB" and sorted(found.size) == sorted(size_of(path))
    elif found is not None:
        shown = Image.open(io.BytesIO(base64.b64decode(found.removeprefix("data:image/jpeg;base64,"))))
        assert shown.format == "JPEG" and max(shown.size) <= max(size_of(path))


def size_of(path):
    """What the file itself says, without decoding it."""
    with Image.open(path) as picture:
        return picture.size


def masks(f, draw):
    data = mutated(MASK, draw) if draw.random() < 0.4 else with_header(MASK, draw)
    mask = UnitMask.load(f.file("safetensors", data))
    assert 0 <= mask.density() <= 1 and all(isinstance(v, str) for v in mask.meta.values())


def tensors(f, draw):
    good = draw.choice([TENSORS, NORMS])
    path = f.file("safetensors", mutated(good, draw) if draw.random() < 0.4 else with_header(good, draw))
    if good is NORMS:
        localizer, target, base = load_norms(path)
        assert isinstance(localizer.tau, int)
        found = {
            f"{part}/{name}": value
            for part, norms in (("target", target), ("base", base))
            for name, value in norms.items()
        }
        assert_stored(path, found, ("target/", "base/"))
    else:
        assert_stored(path, read_tensors(path)[1])


def assert_stored(path, found, prefixes=""):
    """The tensors that were read are those of the file's own header, each in its shape and with its bytes."""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    stored = {
        name: entry
        for name, entry in json.loads(data[8:start]).items()
        if name != "__metadata__" and name.startswith(prefixes)
    }
    assert {name: list(value.shape) for name, value in found.items()} == {n: e["shape"] for n, e in stored.items()}
    for name, value in found.items():
        begin, end = (start + offset for offset in stored[name]["data_offsets"])
        assert value.contiguous().view(torch.uint8).numpy().tobytes() == data[begin:end]


def with_header(good, draw):
    """A safetensors file whose JSON header was changed, its length with it."""
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    if draw.random() < 0.4:  # the strings in it hold JSON too
        key = draw.choice([key for key in ("meta", "localizer", "prompts") if key in header["__metadata__"]])
        text = mutated_json(json.loads(header["__metadata__"][key]), draw)
        header["__metadata__"][key] = text.decode("utf-8", "replace")
        changed = json.dumps(header).encode()
    else:
        changed = mutated_json(header, draw)
    return struct.pack("<Q", len(changed)) + changed + good[8 + size :]


def registries(f, draw):
    concepts = Concepts.load(f.file("toml", mutated(TOML, draw)))
    prompt = draw.choice(["Bolto the robot and anna muller", "the red robot with one wheel", "\ud800 \0", "b0lt0"])
    assert all(prompt[m.start : m.end] == m.text and isinstance(m.substitute, str) for m in concepts.found(prompt))


def runs(f, draw):
    """Damaged records or description; reading or resuming loses no record that is whole."""
    name = draw.choice(["run.json", "records.jsonl"])
    path = f.root / "run" / name
    data = mutated(path.read_bytes(), draw)
    if name == "run.json" and draw.random() < 0.7:
        data = mutated_json(json.loads(path.read_bytes()), draw)
    other = f.root / "run" / ("records.jsonl" if name == "run.json" else "run.json")
    kept = other.read_bytes()
    try:
        f.damaged(path, data, lambda: resumed(f.root / "run"))
    finally:
        other.write_bytes(kept)


def resumed(folder):
    records = folder / "records.jsonl"
    before = records.read_bytes()
    try:
        known = list(Run.open(folder).records())
        with Run.resume(folder, CONFIG) as run:
            run.append({"id": "new"})
        assert [*known, {"id": "new"}] == list(Run.open(folder).records())
    except BaseException:
        assert records.read_bytes() == before, "what was written is lost"
        raise
    whole = before[: before.rfind(b"\n") + 1]
    assert records.read_bytes().startswith(whole), "what was written is lost"


def reports(f, draw):
    lines = [dict(RECORD, id=str(n), seed=n) for n in range(3)]
    text = b"".join(
        mutated_json(line, draw).replace(b"\n", b"") + b"\n"
        if draw.random() < 0.5
        else json.dumps(line).encode() + b"\n"
        for line in lines
    )
    f.damaged(f.root / "run" / "records.jsonl", text, lambda: write_report(f.root / "run"))


def thresholds(f, draw):
    f.file("json", mutated_json(THRESHOLD, draw))
    try:
        for threshold in load_thresholds(f.scratch):
            assert isfinite(threshold.value) and len(threshold.interval) == 2
    finally:
        (f.scratch / "case.json").unlink()


def calibrations(f, draw):
    path = f.scratch / "copies.calibration"
    path.write_bytes(mutated_json({"format": 1, "metrics": {"tiled_l2": METRIC, "pdq": METRIC}}, draw))
    found = load_calibrations(path)
    assert set(found) == set(json.loads(path.read_bytes())["metrics"])
    for name, one in found.items():
        low, high = one.copied(-1e40), one.copied(1e40)
        assert (one.metric, low, high) == (name, not one.higher_is_copy, one.higher_is_copy)
        assert one.copied(one.threshold) is False and one.copied(float("nan")) is None


def galleries(f, draw):
    path = f.root / "gallery" / draw.choice(["gallery.json", "features.npz"])
    data = mutated(path.read_bytes(), draw)
    if path.suffix == ".json":
        data = mutated_json(json.loads(path.read_bytes()), draw)
    f.damaged(path, data, lambda: Gallery.load(f.root / "gallery").nearest(Image.open(io.BytesIO(PICTURES["PNG"]))))


def traps(f, draw):
    path = draw.choice(sorted((f.root / "traps").rglob("*.*")))
    data = mutated(path.read_bytes(), draw)
    if path.name == "manifest.json":
        data = mutated_json(json.loads(path.read_bytes()), draw)
    f.damaged(path, data, lambda: read_traps(f.root / "traps"))


def manifests(f, draw):
    name = draw.choice(["testbed/manifest.json", "manifest.toml"])
    path = f.weights / name
    data = mutated(path.read_bytes(), draw)
    if path.suffix == ".json":
        data = mutated_json(json.loads(path.read_bytes()), draw)
        f.damaged(path, data, lambda: load_manifest(path).works())
    else:
        f.damaged(path, data, lambda: read_manifest(f.weights))


def stages(f, draw):
    path = f.scratch / "stages.json"
    entry = {"stage": "scan", "status": "complete", "detail": {}, "seconds": 1.0, "evaluations": 3, "why": "x"}
    path.write_bytes(mutated_json([entry, {**entry, "stage": "before"}], draw))
    found, written = Stages(f.scratch), json.loads((f.scratch / "stages.json").read_bytes())
    status = {one["stage"]: one["status"] for one in reversed(written)}  # of several, the first counts
    assert {name for name in status if found.complete(name)} == {n for n, s in status.items() if s == "complete"}
    assert set(found.limits()) == {one["why"] for one in written if one.get("why")}


KINDS = {
    prompts: 2200,
    pictures: 1800,
    masks: 1200,
    tensors: 800,
    registries: 1300,
    runs: 700,
    reports: 300,
    thresholds: 300,
    calibrations: 300,
    galleries: 300,
    traps: 300,
    manifests: 300,
    stages: 200,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("folders"))


def outcome(case, folders, seed):
    """ "result", or the name of the project's error; fails on anything else."""
    draw = random.Random(f"{case.__name__} {seed}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            case(folders, draw)
            return "result"
        except ShieldError as error:
            said = str(error)
            assert said and "\n" not in said.strip() and len(said) < 3000, f"not one sentence: {said[:500]!r}"
            return type(error).__name__


def every_case(case, folders, count):
    found, wrong = Counter(), []
    for seed in range(count):
        try:
            found[outcome(case, folders, seed)] += 1
        except Exception as error:  # noqa: BLE001
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{seed}: {type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:12])
    return found


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.__name__)
def test_a_few_damaged_files(case, folders):
    found = every_case(case, folders, 4 * FAST if case is masks else FAST)  # few of them stay whole
    assert found["result"] and found.total() > found["result"], "files that are all whole, or all broken, test nothing"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.__name__)
def test_damaged_files(case, folders):
    found = every_case(case, folders, KINDS[case])
    print(f"\n{case.__name__}: {KINDS[case]} files, {dict(found.most_common())}")
    assert len(found) > 1, "a fuzzer that only breaks, or never does, tests nothing"


def bomb():
    """A PNG of a few bytes that says it is 30,000 x 30,000 pixels large."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + PICTURES["PNG"][33:]


def a_mask(meta="{}", name="a"):
    return save({name: torch.ones(2, dtype=torch.uint8)}, {"unit_mask": "1", "meta": meta})


@pytest.mark.parametrize("read", [opened, read_picture, reference_picture])
def test_a_picture_that_claims_to_be_huge(folders, read):
    with pytest.raises(ShieldError, match="can't be read"):
        read(folders.file("png", bomb()))


@pytest.mark.parametrize(
    "read, suffix, data",
    [
        (Concepts.load, "toml", b"x = " + b"9" * 5000),
        (Concepts.load, "toml", b"x = " + b"[" * 5000),
        (Concepts.load, "toml", b'[[concept]]\nname = "a"\nsubstitute = 3\n'),
        (read_prompts, "jsonl", b"[" * 100_000),
        (UnitMask.load, "safetensors", a_mask("[")),
        (UnitMask.load, "safetensors", a_mask('{"k": 1}')),
        (UnitMask.load, "safetensors", a_mask("[" * 100_000)),
        (UnitMask.load, "safetensors", save({"a": torch.ones(2)}, {"unit_mask": "1", "meta": "{}"})),
        (load_calibrations, "calibration", b'{"format": 1, "metrics": []}'),
        (load_norms, "safetensors", TENSORS),
        (load_manifest, "json", b"[]"),
        (load_manifest, "json", b"\xff"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__ if callable(value) else repr(value[:24]),
)
def test_found(folders, read, suffix, data):
    """Files that once ended in a traceback."""
    path = folders.file(suffix, data)
    try:
        with pytest.raises(ShieldError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    finally:
        path.unlink()


def test_a_layer_may_have_any_name(folders):
    assert list(UnitMask.load(folders.file("safetensors", a_mask(name="up.\u00b2.x"))).masks) == ["up.\u00b2.x"]


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 1}',
        '{"schema": 1, "kind": "x", "config": {"a": NaN}}',
        '{"schema": 1, "kind": "x", "config": {"a": 1e999}}',
        "[" * 100_000,
    ],
)
def test_descriptions_of_runs_that_are_damaged(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ShieldError, match="damaged|can't be read"):
        Run.resume(tmp_path, CONFIG)
    assert (tmp_path / "run.json").read_text() == text


def test_a_whole_last_line_that_is_damaged_is_not_cut_off(tmp_path):
    with Run.create(tmp_path / "run", CONFIG, kind="scan") as run:
        run.append({"id": "a"})
        run.append({"id": "b"})
    path = tmp_path / "run" / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"b"', b'\xff"'))
    before = path.read_bytes()
    for read in (lambda: Run.resume(tmp_path / "run", CONFIG), lambda: list(Run.open(tmp_path / "run").records())):
        with pytest.raises(ShieldError, match="damaged"):
            read()
    assert path.read_bytes() == before


def test_a_file_name_that_is_no_text_can_be_kept_in_a_run(tmp_path):
    odd = "caf\udce9.txt"  # how Python shows the byte 0xe9 on a command line
    Run.create(tmp_path / "run", {"prompts": odd}, kind="scan").finish()
    assert Run.open(tmp_path / "run").config == {"prompts": odd}


def test_the_page_counts_these_cases():
    """docs/reliability.md: a row for each kind in this order, results and errors that add up to it, and their sum."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = page[page.index("## Damaged files") : page.index("\n## ", page.index("## Damaged files") + 1)]
    rows = [
        [int(cell.replace(",", "")) for cell in re.findall(r"\| \**([\d,]+)\**(?= \|)", line)]
        for line in section.splitlines()
        if re.search(r"\| \**\d", line)
    ]
    assert [row[0] for row in rows] == [*KINDS.values(), sum(KINDS.values())]
    assert all(row[0] == sum(row[1:]) and row[-1] == 0 for row in rows)
    assert rows[-1] == [sum(column) for column in zip(*rows[:-1], strict=True)]
