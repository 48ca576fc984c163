"""Text encoders of the screen by meaning: a pipeline's own, and MiniLM where the extra `meaning` is installed."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

import probes.bench
from shield import Meaning
from shield.benign.prompts import benign_prompts
from shield.errors import UnsupportedPipelineError, WeightsError
from shield.model.text_encoders import PACKAGE, PipelineTextEncoder, SentenceEncoder
from shield.protected.concepts import Concept, Concepts
from shield.protected.meaning import FPR, Space, readings
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_sd3, tiny_sdxl

ROBOT = Concepts([Concept("bolto", descriptions=("the red robot with one wheel and a hat",))])
DESCRIBED = Path(probes.bench.__file__).with_name("indirect_descriptions.toml")


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_sd3, tiny_flux])
def test_a_pipeline_s_own_encoder_gives_unit_vectors_in_the_order_of_the_texts(make):
    pipe = make()
    encoder, again = PipelineTextEncoder(pipe), PipelineTextEncoder(make())
    texts = ["the cat sits on a wall beside a house", "a dog", "a picture by anna"]
    rows = encoder.texts(texts)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5) and encoder.sha256 == again.sha256
    assert np.allclose(rows, np.concatenate([encoder.texts([text]) for text in texts]), atol=1e-5)
    assert len(encoder.texts([])) == 0


def test_a_pipeline_without_text_encoder_is_told(pipe):
    pipe.text_encoder = None
    with pytest.raises(UnsupportedPipelineError, match="minilm"):
        PipelineTextEncoder(pipe)


def test_the_limit_of_a_pipeline_s_screen_is_made_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    prompts = benign_prompts("calibration", 230)
    monkeypatch.setattr("shield.protected.meaning.benign_prompts", lambda half: prompts)
    screen = Meaning.of(tiny_sd(), ROBOT)
    assert screen.limit.fpr == FPR and screen.limit.negatives == 230
    monkeypatch.setattr("shield.protected.meaning.benign_prompts", None)  # a second limit can't be made
    assert Meaning.of(tiny_sd(), ROBOT).limit == screen.limit
    assert [m.concept for m in screen.found("the red robot with one wheel and a hat")] == ["bolto"]


def test_sentence_encoders_read_what_describes_something_and_names_where_nothing_does():
    space = Space(Concepts([*ROBOT.concepts, Concept("drazzik")]), PipelineTextEncoder(tiny_sd()))
    assert [concept.name for concept in space._owners] == ["bolto", "drazzik"]
    prompt = "a red hat, the robot with one wheel, shot on a phone"
    read = [prompt[s:e] for s, e in readings(prompt, 4)]
    assert read == ["the robot with one wheel", prompt]


def test_a_folder_without_an_encoder_is_told(tmp_path):
    with pytest.raises(WeightsError, match="no sentence encoder"):
        SentenceEncoder(tmp_path)


def test_minilm_finds_registry_concepts_that_are_described_and_few_others():
    """On the half of the descriptions that chose the readings; docs/results.md has the other one."""
    pytest.importorskip(PACKAGE, reason="the extra `meaning` isn't installed")
    from probes.bench.meaning import measure

    figures = measure("dev", concepts=Concepts.load(), prompts=100)
    assert figures["recall"]["share"] > 0.8 and figures["flagged"]["share"] < 0.03
    assert set(tomllib.loads(DESCRIBED.read_text())) == {"dev", "heldout"}
