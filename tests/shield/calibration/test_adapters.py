"""A LoRA on a served pipeline makes another checkpoint of it, calibrated once for each set of adapters and weights."""

import logging

from peft import LoraConfig

from shield import Shield
from shield.runtime.policy import Policy
from tests.shield.calibration.test_on_call import RATE, one
from tests.tiny import tiny_sd

REPORT = Policy(on_flag="report")
SETS = [([], []), (["a"], [1.0]), (["a"], [0.5]), (["a", "b"], [0.5, 1.0])]


def test_each_set_of_adapters_and_weights_is_calibrated_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    safe = Shield(tiny_sd(), REPORT, fpr=RATE)

    def limits():
        """The threshold of a call with each set, in this order, and how many were made on the way."""
        caplog.clear()
        found = []
        with caplog.at_level(logging.INFO, "shield"):
            for names, weights in SETS:
                if names:
                    safe.enable_lora()
                    safe.set_adapters(names, weights)
                elif safe.unet.peft_config:
                    safe.disable_lora()
                found.append(safe("a cat", **one({})()).verdicts[0].scores[0].threshold)
        return found, caplog.text.count("Calibrating")

    for name, place in (("a", "to_q"), ("b", "to_v")):
        config = LoraConfig(r=2, target_modules=[place], init_lora_weights=False)
        safe.unet.add_adapter(config, adapter_name=name)
    first, made = limits()
    assert made == 4 and len(set(first)) == 4
    assert limits() == (first, 0)  # the same process, and what is kept for others
    safe = Shield(safe.pipe, REPORT, fpr=RATE)
    assert limits() == (first, 0)
