"""What a model draws unasked may be a memorized work, and its gap is zero all the same: nobody judged it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shield import Gallery, Shield
from shield.mitigations import NullPrompt
from shield.model.conditioning import says_nothing
from shield.reasons import Reason
from shield.runtime.policy import Policy, preset
from tests.shield.calls import options, thresholds
from tests.tiny import tiny_sd

NULL = (NullPrompt(),)


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u200b"])
@pytest.mark.parametrize("policy", ["balanced", "strict"])
def test_an_empty_prompt_is_blocked_where_others_pass(pipe, policy, prompt):
    if not says_nothing(pipe, prompt):
        pytest.skip("this tokenizer has a token for it")
    result = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9))(["the cat", prompt, "a dog"], **options(3))
    assert [v.status for v in result.verdicts] == ["passed", "blocked", "passed"]
    assert [v.scored for v in result.verdicts] == [True, False, True]
    assert result.verdicts[1].scores[0].flagged is None and result.verdicts[1].reasons[-1].kind == "empty_prompt"
    assert (result.images[1] == 0.5).all()
    assert np.array_equal(result.images[::2], pipe(["the cat", prompt, "a dog"], **options(3)).images[::2])


def test_elsewhere_it_is_told(pipe):
    for policy in (preset("monitor"), Policy(on_unscored="pass")):
        result = Shield(pipe, policy, thresholds=thresholds(pipe, 1e9))("", **options(1, negative_prompt="a dog"))
        assert (result.verdicts[0].status, result.verdicts[0].scored) == ("passed", False)
        assert np.array_equal(result.images, pipe("", **options(1, negative_prompt="a dog")).images)
    looking = Shield(pipe, Policy(detectors=()), thresholds=[], calibrate="never")("", **options(1))
    assert looking.verdicts[0].scored, "no detector is asked"


def test_a_picture_by_null_prompt_is_judged_by_a_gallery_or_not_at_all(pipe):
    flagging, empty = thresholds(pipe, 1e-3), pipe("", **options(1, output_type="pil")).images[0]
    balanced, strict = Policy(mitigations=NULL, retries=0), replace(preset("strict"), mitigations=NULL)
    bare = Shield(pipe, balanced, thresholds=flagging)("the cat", **options(1))
    assert (bare.verdicts[0].status, bare.verdicts[0].scored) == ("mitigated", False)
    assert bare.verdicts[0].reasons[-1] == Reason("unchecked", detail="null_prompt")
    closed = Shield(pipe, strict, thresholds=flagging)("the cat", **options(1))
    assert closed.verdicts[0].status == "blocked" and (closed.images == 0.5).all()
    for protected, status in ((Image.radial_gradient("L").convert("RGB"), "mitigated"), (empty, "blocked")):
        gallery = Gallery(correlation=0.99, pdq_distance=0)
        gallery.add([("work", protected)])
        verdict = Shield(pipe, balanced, gallery, thresholds=flagging)("the cat", **options(1)).verdicts[0]
        assert (verdict.status, verdict.scored) == (status, True)
