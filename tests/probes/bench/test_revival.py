"""The bench of filled-in zeros goes on after a break, and its choice of a mask is found among a sweep's rows."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from probes.attacks.weight_revival import WeightRevival
from probes.bench import localizers
from probes.bench.localizers import LOSSES, Bench, options
from probes.bench.revival import bench_revival, table
from probes.testbed.manifest import load_manifest
from shield.errors import BadRequestError
from tests.probes.exact import bits
from tests.probes.tiny_testbed import tiny_testbed

ROOT = Path(__file__).parents[3]
NAMES = [
    ("unpruned", None),
    *((name, revived) for name in ("located", "random", "located, resampled", "clean twin, located")
      for revived in (False, True)),
]  # fmt: skip


class Break(Exception):
    """A stop in the middle."""


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A folder with a sweep of one variant of a tiny testbed."""
    monkeypatch.setenv("DIFFSHIELD_WEIGHTS", str(tiny_testbed(tmp_path / "weights", scenes=34, steps=10)))
    bench = Bench("cpu", 16, str)
    name, localizer = next((name, one) for name, one in bench.variants() if "1 step" in name)
    row = {"name": name, **options(localizer), "copies": {"share": 0.1}, "loss": {"value": 0.0}}
    out = tmp_path / "out"
    out.mkdir()
    sweep = {"model_sha256": bench.subject.sha256(), "sweep": [row]}
    (out / "localizers.json").write_text(json.dumps(sweep), encoding="utf-8")
    return out


def rows_of(found):
    return [(row["name"], row.get("revived")) for row in found["rows"]]


def test_finished_rows_are_kept_and_the_others_are_the_same_after_a_break(swept, monkeypatch):
    drawn, figures, init = [], Bench.figures, Bench.__init__

    def small(self, *given):
        init(self, *given)
        self.heldout = replace(self.heldout, scenes=self.heldout.scenes[:2], seeds=1)

    def counting(self, panel, subject=None):
        drawn.append(bits((subject or self.subject).denoiser))
        return figures(self, panel, subject)

    monkeypatch.setattr(Bench, "__init__", small)
    monkeypatch.setattr(Bench, "figures", counting)
    monkeypatch.setattr("probes.bench.revival.WeightRevival", partial(WeightRevival, iterations=2))

    def stop(line):
        if line.startswith("random, zero_weights"):
            raise Break

    with pytest.raises(Break):
        bench_revival(swept, batch_size=16, device="cpu", progress=stop)
    held = json.loads((swept / "revival.json").read_text(encoding="utf-8"))
    assert rows_of(held) == NAMES[:4] and len(drawn) == 4
    first = drawn.copy()
    drawn.clear()
    found = bench_revival(swept, batch_size=16, device="cpu", progress=str)
    assert rows_of(found) == NAMES and found["rows"][:4] == held["rows"]
    assert len(drawn) == 6 and drawn[0] == first[0]  # the unpruned model, which the others lose against, and five rows
    alignments = [row["alignment"] for row in found["rows"]]
    losses = [row["loss"]["value"] for row in found["rows"]]
    assert losses == pytest.approx([alignments[0] - one for one in alignments], abs=1e-6)
    assert json.loads((swept / "revival.json").read_text(encoding="utf-8")) == found
    drawn.clear()
    assert bench_revival(swept, batch_size=16, device="cpu", progress=str) == found and not drawn
    assert table(found).count("\n") == 1 + len(NAMES)


def test_other_weights_start_over_or_are_refused(swept):
    setting = {"format": 1, "model_sha256": "another", "mask": "", "density": 0.0}
    (swept / "revival.json").write_text(json.dumps({**setting, "rows": [{"name": "unpruned"}]}), encoding="utf-8")
    (swept / "localizers.json").write_text(json.dumps({"model_sha256": "another", "sweep": []}), encoding="utf-8")
    with pytest.raises(BadRequestError, match="bench localizers"):
        bench_revival(swept, device="cpu", progress=str)


def test_half_of_a_sweep_chooses_nothing(swept):
    found = json.loads((swept / "localizers.json").read_text(encoding="utf-8"))
    (swept / "localizers.json").write_text(json.dumps({**found, "unfinished": True}), encoding="utf-8")
    with pytest.raises(BadRequestError, match="half of a sweep.*bench localizers"):
        bench_revival(swept, device="cpu", progress=str)


def test_every_variant_is_a_row_of_the_sweep_that_ships():
    """Else the choice of a mask wouldn't be found in it, and a sweep would be drawn anew."""
    found = json.loads((ROOT / "docs" / "bench" / "first" / "localizers.json").read_text(encoding="utf-8"))["sweep"]
    bench = object.__new__(Bench)
    bench.manifest, bench.negatives, bench.benign = load_manifest(), ("one",), ("other",)
    held = {localizers._key(row) for row in found}
    assert {localizers._key({"name": name, **options(one)}) for name, one in bench.variants()} <= held
    assert bench.chosen(found, LOSSES[-1])[1].k > 0
