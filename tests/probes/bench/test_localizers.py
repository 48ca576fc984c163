"""The bench of localizers goes on where it was cut off."""

import json
from types import SimpleNamespace

import pytest

from probes.bench import localizers


class _Cut(Exception):
    pass


class _Counted:
    """Stands in for the two hours of drawing: rows that count up, and an end after `left` of them."""

    left = 0

    def __init__(self, *args) -> None:
        self.dev, self.located, self.subject = None, ["a work"], self

    def sha256(self):
        return "0" * 64

    def figures(self, panel):
        return {}

    def _rows(self, part, measured):
        for n in range(3):
            if n < len(measured):
                yield measured[n]
                continue
            if not _Counted.left:
                raise _Cut
            _Counted.left -= 1
            yield {"name": f"{part} {n}", "drawn": _Counted.left}

    def sweep(self, measured=()):
        return self._rows("sweep", measured)

    def judged(self, rows, measured=()):
        assert len(rows) == 3
        return self._rows("heldout", measured)

    def transplants(self, measured=()):
        return self._rows("transplants", measured)


def test_rows_that_were_measured_are_kept_and_the_file_says_when_it_is_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(localizers, "Bench", _Counted)
    file, before = tmp_path / "localizers.json", []
    for left, whole in ((2, 2), (3, 5), (3, 8)):
        _Counted.left = left
        with pytest.raises(_Cut):
            localizers.bench_localizers(tmp_path)
        held = json.loads(file.read_text(encoding="utf-8"))
        rows = [row for part in ("sweep", "heldout", "transplants") for row in held.get(part, ())]
        assert held["unfinished"] and len(rows) == whole and rows[: len(before)] == before
        before = rows
    _Counted.left = 1
    assert "unfinished" not in localizers.bench_localizers(tmp_path) | json.loads(file.read_text(encoding="utf-8"))


class _Known(localizers.Bench):
    """A bench that can only draw the unchanged model."""

    def __init__(self):
        self.manifest = SimpleNamespace(sampling={"steps": 25, "guidance_scale": 2.0})
        self.negatives, self.benign, self.heldout = ("a",), ("b",), None
        self.located = []

    def figures(self, panel, subject=None):
        return {"copies": "unchanged"}

    def mask(self, localizer):
        self.located.append(localizer)
        return SimpleNamespace(density=lambda: 0.1)

    def random(self, mask):
        return mask

    def point(self, panel, name, mask, pruner=None, **about):
        return {"name": name, "drawn": True}


def test_nothing_is_located_for_held_out_rows_that_are_known():
    usual = dict(_Known().variants())["published"]
    row = {"name": "published", **localizers.options(usual), "copies": {"share": 0.0}, "loss": {"value": 0.01}}
    chosen = [f"chosen for a loss up to {loss:g}: published, k={usual.k:g}" for loss in localizers.LOSSES]
    names = [*chosen, "published", "strongest", "value_neurons", "curvature"]
    known = [{"name": n} for name in names for n in (name, f"{name}, random")]
    known += [{"name": f"{chosen[-1]}, times {factor:g}"} for factor in localizers.FACTORS]
    bench = _Known()
    first, *rows = bench.judged([row], known)
    assert first["name"] == "unpruned" and rows == known and bench.located == []
    assert list(bench.judged([row], [*known[:2], *known[4:]]))[1:] == known and bench.located == []  # the same mask
    *_, last = bench.judged([row], known[:-1])
    assert last == {"name": known[-1]["name"], "drawn": True} and len(bench.located) == 1
