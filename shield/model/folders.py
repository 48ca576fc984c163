"""Folders in diffusers' layout: what their index names, which files of weights they have, and what is broken in them.

Files may come as a variant alone (`model.fp16.safetensors`), which diffusers loads only when it is named. When a folder
can't be loaded its files are looked through for the cause, because the loaders' own errors name an inner function as
often as a file. Of pickled weights (.bin) tensors alone are read, never code.
"""

import json
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shield.errors import CheckpointError, UnsupportedPipelineError, first_sentence

INDEX = "model_index.json"
WEIGHTS = (".safetensors", ".bin")
_SHARD = re.compile(r"-\d+-of-\d+$")
PREFERRED = "fp16"  # among several variants that would do
_MADE_UP = "newly initialized"  # how transformers' report calls what a file had no values for


def checked_index(source: str, index: Any) -> dict[str, Any]:
    """The content of a model_index.json, if it names a pipeline of diffusers and its parts.

    Raises WeightsError (no such index) and UnsupportedPipelineError (a class that diffusers doesn't have).
    """
    import diffusers

    if not isinstance(index, dict) or not index.get("_class_name"):
        raise CheckpointError(f"{source} can't be loaded: its {INDEX} names no pipeline class (_class_name).")
    name = index["_class_name"]
    kind: Any = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise UnsupportedPipelineError(
            f"{source} can't be loaded: its {INDEX} names the pipeline class {name!r}, and diffusers "
            f"{diffusers.__version__} has no such pipeline; code that comes with a model isn't run."
        )
    pipeline: Any = kind
    for part in pipeline._get_signature_keys(pipeline)[0]:
        if part in index and not _is_pair(index[part]):
            raise CheckpointError(
                f"{source} can't be loaded: its {INDEX} needs [library, class] for {part}, and has {index[part]!r}."
            )
    return index


def variant_of(folder: Path, parts: list[str]) -> str | None:
    """The variant that has to be named so that every one of these parts has weights; None where none has to be.

    Raises WeightsError when no single one does.
    """
    held = {part: found for part in parts if (found := _variants(folder / part))}
    lacking = {part: found for part, found in held.items() if "" not in found}
    if not lacking:
        return None
    shared = frozenset.intersection(*lacking.values())
    if not shared:
        named = "; ".join(f"{part} as {', '.join(sorted(found))}" for part, found in lacking.items())
        raise CheckpointError(f"{folder} can't be loaded: its parts are there in different variants alone ({named}).")
    return PREFERRED if PREFERRED in shared else min(shared)


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """The parts that an index names with a library and a class."""
    return [name for name, value in index.items() if _is_pair(value) and value[0] is not None]


def cause_in(folder: Path, parts: list[str]) -> str | None:
    """Half a sentence about the first file in these parts that can't be read or is missing; None if all can be."""
    for part in parts:
        if not (folder / part).is_dir():
            return f"there is no folder {folder / part}, which its {INDEX} names."
        try:
            files = sorted(path for path in (folder / part).iterdir() if not path.is_dir())
            wrong = next((told for path in files if (told := _wrong(path))), None)
        except OSError as error:
            return f"{folder / part} can't be read ({error})."
        if wrong:
            return wrong
        names = {path.name for path in files}
        if any(path.suffix in WEIGHTS for path in files) and "config.json" not in names:
            return f"{folder / part} has weights and no config.json."
        if "config.json" in names and not any(path.suffix in WEIGHTS for path in files):
            return f"{folder / part} has a config.json and no weights (.safetensors)."
    return None


@contextmanager
def made_up() -> Iterator[list[str]]:
    """Reports of transformers, filled in the block, about weights that no file had and that were drawn at random."""
    told: list[str] = []
    log, handler = logging.getLogger("transformers.modeling_utils"), _Kept(told)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    try:
        yield told
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _Kept(logging.Handler):
    """Keeps the messages that tell of made up weights."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if _MADE_UP in message:
            self._told.append(message)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(v is None or isinstance(v, str) for v in value)


def _variants(folder: Path) -> frozenset[str]:
    """The variants a part's weights are there in; "" is the plain one."""
    files = folder.iterdir() if folder.is_dir() else ()
    names = [path.stem for path in files if path.suffix in WEIGHTS and path.is_file()]
    return frozenset(_SHARD.sub("", name).partition(".")[2].split("-")[0] for name in names)


def _wrong(path: Path) -> str | None:
    if not path.exists():
        return f"{path} is a link to a file that isn't there."
    if path.suffix in (*WEIGHTS, ".json") and path.stat().st_size == 0:
        return f"{path} is empty; get it anew."
    if path.suffix in WEIGHTS:
        with path.open("rb") as file:
            if file.read(8) == b"version ":
                return f"{path} is a pointer of git-lfs in the place of the file; get the file with `git lfs pull`."
        return _wrong_tensors(path) if path.suffix == ".safetensors" else _wrong_pickle(path)
    return _wrong_json(path) if path.suffix == ".json" else None


def _wrong_tensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"{path} is cut off or no safetensors file ({first_sentence(error).rstrip('.')}); get it anew."


def _wrong_pickle(path: Path) -> str | None:
    import torch

    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        return f"{path} is no pickle of tensors alone, and nothing of it was run; get the model as .safetensors."
    except Exception as error:  # of broken archives torch raises whatever comes
        return f"{path} can't be read as pickled weights ({first_sentence(error).rstrip('.')}); get .safetensors."
    return None


def _wrong_json(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"{path} isn't valid JSON ({first_sentence(error).rstrip('.')})."
    return None if isinstance(content, dict) else f"{path} needs a JSON object, and holds a {type(content).__name__}."
