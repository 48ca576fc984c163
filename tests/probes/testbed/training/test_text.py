"""Tokenizer, OpenCLIP and its conversion: one text tower in two libraries."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from probes.testbed.drawing.vocabulary import vocabulary
from probes.testbed.training import text

CAPTIONS = ["a lion on a red background", "the silent orchard, a painting by mira voss", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return text.new_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return text.new_openclip(len(tokenizer), seed=1).eval()


def test_every_word_of_the_world_is_one_token(tokenizer) -> None:
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())


def test_ids_are_the_same_in_every_run() -> None:
    """Ties that a library broke by a random hash gave other ids to each run, so other captions to a resumed one."""
    expected = [("a", "d</w>"), ("a", "t</w>"), ("b", "ad</w>"), ("b", "at</w>")]
    assert text.learn_merges(["bad", "bat", "ad"]) == expected
    assert text.new_tokenizer().get_vocab() == text.new_tokenizer().get_vocab()


def test_unknown_words_and_scripts_still_have_tokens(tokenizer) -> None:
    ids = text.tokens(tokenizer, ["zxqj ärger 漢字 🙂"])
    assert ids.shape == (1, text.CONTEXT) and int((ids != tokenizer.eos_token_id).sum()) > 5


def test_the_converted_tower_gives_open_clip_s_own_features(model, tokenizer) -> None:
    ids = text.tokens(tokenizer, CAPTIONS)
    tower = text.text_tower(model, len(tokenizer))
    with torch.no_grad():
        pooled = tower(ids).pooler_output @ model.text_projection
        assert torch.allclose(pooled, model.encode_text(ids), atol=1e-5)


def test_open_clip_s_loader_reads_what_is_saved(model, tokenizer, tmp_path: Path) -> None:
    text.save_openclip(model, tokenizer, tmp_path, dtype=torch.float32)
    loaded, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(CAPTIONS)
    assert torch.equal(ids, text.tokens(tokenizer, CAPTIONS))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    assert torch.allclose(preprocess(image), text.small_pixels([image])[0], atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(loaded.eval().encode_text(ids), model.encode_text(ids), atol=1e-5)
