"""Names of signals, read as data."""

import pytest

from shield.detectors import DETECTORS
from shield.errors import MissingSignalError
from shield.signals import TENSORS, Signals


def test_names_are_read_once():
    read = Signals.named(["noise_cond", "late", "redrawn:2", "redrawn:5", "attention:b.attn2", "ending:a.attn2"])
    assert read == Signals(frozenset({"noise_cond"}), ("b.attn2", "ending:a.attn2"), late=True, redrawn=5)
    assert read.extra_calls == 2 + 5
    assert Signals.named(TENSORS).extra_calls == 0 and Signals.named([]) == Signals()


def test_a_name_that_nobody_records_is_an_error():
    with pytest.raises(MissingSignalError, match=r"Unknown signals \['noise'\]; known: latents, noise_cond"):
        Signals.named(["noise", "latents"])


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_names_signals(name):
    assert Signals.named(DETECTORS[name]().needs) != Signals()
