"""The bench of localizers goes on where it was cut off."""

import json

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
