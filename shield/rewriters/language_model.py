"""Let a language model on this machine say the same scene without what is protected.

What Guardians of Generation (Roy et al., ICCV 2025 workshops, arXiv 2503.16171) asks a paid service for, which returns
the original prompt when that fails. Ours is any instruction-tuned causal model that transformers can load from a local
folder or a GGUF file, and nothing that it says is trusted: a proposal counts only when the prompt screen finds nothing
in it and the detectors pass it. An answer that isn't a description of the same scene is no proposal; a model that
fails is an error, so the request ends without a picture.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from shield.errors import CheckpointError, WeightsError, first_line
from shield.model.loading import quiet
from shield.rewriters.token_attribution import FILLING
from shield.types import Mention, WordWeight

RULES = (
    "You rewrite descriptions of pictures. Keep the scene: what is there, what happens, where, in which style. Replace "
    "every named character, person, brand, artist and title by something generic that looks clearly different: other "
    "colors, clothes and shape. Name nobody. Answer with one short description and nothing else."
)
EXAMPLES = (
    ("Leave out: Zorro. Description: Zorro riding a black horse at night", "a masked rider on a brown horse at night"),
    (
        'Leave out: names and titles. Description: "The Kiss" by Anna Berg, oil on canvas',
        "an oil painting of two people embracing",
    ),
)
BLANK = "somebody or something"
LONGEST = 2000  # characters; text encoders read at most about as many
_REFUSAL = re.compile(r"(i|i'm|i am|i can|sorry|as an|here is|here's|certainly|sure)\b", re.IGNORECASE)


@dataclass(frozen=True)
class LanguageModel:
    """Proposes at most `proposals` prompts: the likeliest answer, then sampled ones (from a fixed seed, so repeatable)
    to the prompt with blanks for the names, which a small model would repeat.

    `path`: a folder with an instruction-tuned model and its tokenizer, or a .gguf file (needs the gguf package). It is
    loaded once, when first needed. Small models often repeat what they should leave out; such answers cost no denoiser
    call, since the screen refuses them first. Raises WeightsError when there is nothing at `path`.
    """

    path: str
    proposals: int = 3
    device: str = "cpu"
    temperature: float = 0.7

    name: ClassVar[str] = "language_model"
    needs_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not Path(self.path).exists():
            raise CheckpointError(f"language_model needs a local folder or .gguf file; there is no {self.path!r}.")

    def propose(self, prompt: str, concepts: Sequence[Mention], weights: Sequence[WordWeight] = ()) -> Iterable[str]:
        """Answers that can pass for a description of the same scene. Raises WeightsError for an unusable model."""
        named, blank = _asked(prompt, concepts), _asked(_without(prompt, concepts, BLANK), ())
        said, kept = {prompt}, _content(_without(prompt, concepts))
        for turn in range(self.proposals):
            answer = _answered(self, named if turn == 0 else blank, turn)
            text = _cleaned(answer, kept, 3 * len(prompt) + 40)
            if text and text not in said:
                said.add(text)
                yield text


def _asked(prompt: str, concepts: Sequence[Mention]) -> str:
    names = ", ".join(dict.fromkeys(mention.concept for mention in concepts)) or "names and titles"
    return f"Leave out: {names}. Description: {' '.join(prompt.split())[:LONGEST]}"


def _without(prompt: str, concepts: Sequence[Mention], said: str = " ") -> str:
    for mention in sorted(concepts, key=lambda m: -m.start):
        prompt = prompt[: mention.start] + said + prompt[mention.end :]
    return prompt


def _cleaned(answer: str, kept: set[str], longest: int) -> str:
    """The answer's first line without quotes; empty when it is no description, or has no word of those to keep."""
    line = next((line.strip() for line in answer.splitlines() if line.strip()), "")
    line = line.removeprefix("Description:").strip(" \"'“”*.")
    is_other = (kept and not _content(line) & kept) or BLANK in line.lower() or _REFUSAL.match(line)
    return "" if is_other or len(line) > longest else line


def _content(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - FILLING


def _answered(rewriter: LanguageModel, asked: str, turn: int) -> str:
    """The model's answer: greedy at turn 0, sampled after. torch's own random state is left as it was."""
    import torch

    tokenizer, model = _loaded(rewriter.path, rewriter.device)
    said = [{"role": "system", "content": RULES}]
    for question, answer in EXAMPLES:
        said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    said.append({"role": "user", "content": asked})
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = ids.to(model.device)
    options: dict[str, Any] = {"do_sample": False}
    if turn:
        options = {"do_sample": True, "temperature": rewriter.temperature, "top_p": 0.95}
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(turn)
        made = model.generate(**ids, max_new_tokens=64, pad_token_id=tokenizer.eos_token_id, **options)
    return tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@lru_cache(maxsize=1)
def _loaded(path: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model, from disk alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, options = Path(path), {"local_files_only": True}
    folder, more = (place.parent, {"gguf_file": place.name}) if place.is_file() else (place, {})
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options, **more)
            model = AutoModelForCausalLM.from_pretrained(str(folder), **options, **more)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise WeightsError(f"{path} can't be loaded as a language model: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{path} has no chat template; language_model needs an instruction-tuned model.")
    return tokenizer, model.to(device).eval()
