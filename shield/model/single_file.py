"""Checkpoints in one file, and LoRA files: what people share, as an ordinary pipeline.

A checkpoint in one file (CompVis' names, .safetensors or .ckpt) holds weights and no configuration. That is taken from
the folder of the same name beside it (model/ for model.safetensors, in diffusers' layout, weights not needed), else
from the hub by what kind of model the weights belong to. Of a .ckpt only tensors are read, never code.

A LoRA is added to the weights at once, so that what is hooked, located, pruned and fingerprinted afterwards is a model
like any other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shield.errors import CheckpointError, WeightsError, first_sentence
from shield.model.folders import checked_index

SUFFIXES = (".safetensors", ".ckpt")


def check_suffix(file: Path) -> None:
    """Raises CheckpointError for a file of a kind that holds no checkpoint."""
    if file.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"A checkpoint in one file is {' or '.join(SUFFIXES)}; {file} is neither.")


def index_of(file: Path) -> tuple[str, dict[str, Any]]:
    """Where the configurations of a single file's parts are (a folder or a hub id), and the pipeline's own.

    Raises WeightsError for a file of another kind, one that can't be read, and configurations that can't be had.
    """
    from diffusers import DiffusionPipeline
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    check_suffix(file)
    beside = file.with_suffix("")
    try:
        if (beside / "model_index.json").is_file():
            source = str(beside)
        else:
            source = fetch_diffusers_config(load_single_file_checkpoint(str(file)))["pretrained_model_name_or_path"]
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} can't be read as a checkpoint: {first_sentence(error)}") from error
    try:
        found = DiffusionPipeline.load_config(source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The configuration of {file} isn't in {beside} and can't be had from {source}: {first_sentence(error)}"
        ) from error
    return source, checked_index(source, found)


def from_single_file(file: Path, source: str, index: dict[str, Any], dtype: Any) -> Any:
    """The pipeline, without a safety checker, which single files don't hold. `source` and `index` as index_of says.

    Raises WeightsError.
    """
    import diffusers

    name = index["_class_name"]
    kind: Any = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise CheckpointError(f"{file} can't be loaded: a {name} isn't read from a single file.")
    bare = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    try:
        pipe = kind.from_single_file(str(file), config=source, dtype=dtype, **bare)
    except NotImplementedError as error:  # torch can't move what the file gave no values to
        raise CheckpointError(f"{file} lacks weights of a {name}.") from error
    except Exception as error:  # the conversion fails in many ways on weights of another kind
        raise CheckpointError(f"{file} can't be loaded as a {name}: {first_sentence(error)}") from error
    if lacking(pipe):
        raise CheckpointError(f"{file} lacks weights of a {name}.")
    return pipe


def with_lora(pipe: Any, file: Path) -> Any:
    """The same pipeline with a LoRA file added to its weights, at its full strength. Raises WeightsError."""
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise WeightsError("A LoRA file needs the lora extra: pip install 'diffusion-shield[lora]'.")
    check_lora(file)
    try:
        with _no_warnings():  # a LoRA of the denoiser alone is told to have forgotten the text encoder
            pipe.load_lora_weights(str(file))
        if not pipe.get_list_adapters():
            raise CheckpointError(f"{file} holds no LoRA of a {type(pipe).__name__}.")
        pipe.fuse_lora(safe_fusing=True)
        pipe.unload_lora_weights()
    except WeightsError:
        raise
    except Exception as error:  # as above
        raise CheckpointError(
            f"{file} can't be loaded as a LoRA of a {type(pipe).__name__}: {first_sentence(error)}"
        ) from error
    return pipe


def check_lora(file: Path) -> None:
    """Raises CheckpointError where there is no file that a LoRA could be in."""
    if not file.is_file() or file.suffix.lower() != ".safetensors":
        raise CheckpointError(f"A LoRA is a .safetensors file, and there is none at {file}.")


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Diffusers' log as silent as an error allows; left as it was."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def lacking(pipe: Any) -> str:
    """The names of parts that have parameters without values; empty if there are none."""
    parts = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    return ", ".join(name for name, part in parts.items() if any(p.is_meta for p in part.parameters()))
