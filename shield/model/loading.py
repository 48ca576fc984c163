"""`load`: a diffusers pipeline from the shipped testbed, a folder, a hub id or a single file, on the best device."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shield.errors import (
    BadRequestError,
    CheckpointError,
    ShieldError,
    WeightsError,
    first_sentence,
    is_unknown_to_hub,
    unreachable,
)
from shield.model.assets import verify, weights_dir
from shield.model.folders import INDEX, PREFERRED, cause_in, checked_index, made_up, parts_of, variant_of
from shield.model.single_file import SUFFIXES, check_lora, check_suffix, from_single_file, index_of, lacking, with_lora

SHIPPED = {"testbed": "testbed/memorized", "testbed-clean": "testbed/clean"}
# Arguments of diffusers' from_pretrained that are handed on; those of HUB also where the index is read.
HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")
LOADER = (*HUB, "variant", "use_safetensors", "low_cpu_mem_usage", "quantization_config")


def load(
    name: str | Path, device: str = "auto", dtype: Any = None, safety_checker: bool = False, **options: Any
) -> Any:
    """A diffusers pipeline.

    `name`: "testbed" (memorized twin), "testbed-clean" (clean twin), a folder in diffusers' layout, a hub id, or a
    checkpoint in one file (shield/model/single_file.py). A plus and a file's path behind it add a LoRA to the weights:
    "testbed+style.safetensors", also several. Shipped files are checked first. `device` "auto" is cuda, else mps, else
    cpu. `dtype` is a torch dtype or its name; by default float32 on a CPU and for the testbed, else float16 for UNets
    and bfloat16 for transformers. The pipeline's own safety checker is left out unless asked for: it blackens pictures,
    which no score here could tell from a removed memory. Of a folder that has its weights as a variant alone
    (model.fp16.safetensors) this variant is loaded. `options` are those of diffusers' from_pretrained: revision, token,
    variant, torch_dtype (as `dtype`) and so on (LOADER), and parts of the pipeline by name (`vae=...`,
    `text_encoder_3=None`).

    Raises WeightsError (missing, altered or broken files), UnsupportedPipelineError (a pipeline class that diffusers
    doesn't have), BadRequestError (unknown device, dtype or option; options of a single file, which has none).
    """
    import torch

    place = resolved_device(device)
    base, loras = split_name(name)
    other = options.pop("torch_dtype", None)
    dtype = other if dtype is None else dtype
    if dtype is None and (base in SHIPPED or place == "cpu"):
        dtype = torch.float32
    with quiet():
        if Path(base).expanduser().is_file():
            pipe = _from_file(Path(base).expanduser(), dtype, safety_checker, options)
        else:
            pipe = _from_pretrained(_source(base), dtype, safety_checker, options)
        for lora in loras:
            pipe = with_lora(pipe, lora)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)


def resolved_device(device: str = "auto") -> str:
    """ "auto" -> the best device there is; any other name is checked. Raises BadRequestError."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise BadRequestError(f"There is no device {device!r}; use auto, cpu, cuda, cuda:0 or mps.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadRequestError("No CUDA device was found; use --device auto or cpu.")
    return device


def split_name(name: str | Path) -> tuple[str, list[Path]]:
    """A model's name without the LoRA files that are named behind pluses, and those files."""
    base, loras = str(name), list[Path]()
    while "+" in base and not Path(base).expanduser().exists():
        base, _, last = base.rpartition("+")
        loras.insert(0, Path(last).expanduser())
    return base, loras


def is_hub_id(name: str) -> bool:
    """Whether a name that no folder or file has can be one of the hub's, owner/name."""
    return Path(name).suffix.lower() not in SUFFIXES and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def check_name(name: str | Path) -> None:
    """Raises CheckpointError for a name that no shipped model, folder, file or model of the hub can have.

    Nothing is loaded, and the hub isn't asked.
    """
    base, loras = split_name(name)
    if Path(base).expanduser().is_file():
        check_suffix(Path(base))
    elif base not in SHIPPED:
        _source(base)
    for lora in loras:
        check_lora(lora)


def _source(name: str) -> str:
    """A shipped model's verified folder, an existing folder, or a hub id."""
    if name in SHIPPED:
        folder = weights_dir()
        verify(folder, SHIPPED[name])
        return str(folder / SHIPPED[name])
    path = Path(name).expanduser()
    if path.exists():
        if not (path / INDEX).is_file():
            raise CheckpointError(f"{path} isn't a diffusers pipeline: it holds no {INDEX}.")
        return str(path)
    if not is_hub_id(name):
        known = ", ".join(SHIPPED)
        raise CheckpointError(
            f"There is no model {name!r}; use {known}, an existing folder or file, or a hub id owner/name."
        )
    return name


def _from_file(file: Path, dtype: Any, safety_checker: bool, given: Mapping[str, Any]) -> Any:
    if given:
        raise BadRequestError(f"A checkpoint in one file is loaded as it is: leave {', '.join(given)} out for {file}.")
    if safety_checker:
        raise BadRequestError(f"A single file holds no safety checker: load {file} without one.")
    source, index = index_of(file)
    return from_single_file(file, source, index, _resolved_dtype(dtype, index))


def _from_pretrained(source: str, dtype: Any, safety_checker: bool, given: Mapping[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    try:
        found = DiffusionPipeline.load_config(source, **{name: given[name] for name in HUB if name in given})
    except Exception as error:
        raise _refused(source, error) from error
    index = checked_index(source, found)
    unknown_option = next((name for name in given if name not in LOADER and name not in index), None)
    if unknown_option is not None:
        raise BadRequestError(
            f"There is no option {unknown_option!r}: {source} is loaded with {', '.join(LOADER)}, and its parts."
        )
    options: dict[str, Any] = {name: None for name, part in index.items() if part in ([None, None], (None, None))}
    options["dtype"] = _resolved_dtype(dtype, index)
    if "safety_checker" in index and not safety_checker:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    options |= given
    folder = Path(source)
    parts = [name for name in parts_of(index) if name not in options]
    if not safety_checker and _is_spare(folder / "feature_extractor", parts):
        options["feature_extractor"] = None
        parts.remove("feature_extractor")
    with made_up() as unknown:
        pipe = _from_folder(folder, parts, options) if folder.is_dir() else _from_hub(source, options)
    lacks = lacking(pipe)
    if lacks or unknown:
        raise CheckpointError(f"{source} can't be loaded: its files lack weights of {lacks or 'a text encoder'}.")
    return pipe


def _from_folder(folder: Path, parts: list[str], options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    try:
        chosen = {"variant": variant_of(folder, parts)} if "variant" not in options else {}
        return DiffusionPipeline.from_pretrained(str(folder), **chosen, **options)
    except ShieldError:
        raise
    except Exception as error:  # two libraries' loaders, which fail in many ways
        cause = cause_in(folder, parts) or _told(error)
        raise WeightsError(f"{folder} can't be loaded: {cause}") from error


def _from_hub(name: str, options: dict[str, Any]) -> Any:
    """What is plain, else the variant that most models have. Whether there is one shows when it is asked for."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(name, **options)
    except Exception as error:
        if "variant" in options:
            raise _refused(name, error) from error
        try:
            return DiffusionPipeline.from_pretrained(name, variant=PREFERRED, **options)
        except Exception:
            raise _refused(name, error) from error


def _refused(name: str, error: Exception) -> WeightsError:
    """A CheckpointError where the hub has no such repository, revision or file, a WeightsError for any other cause."""
    kind = CheckpointError if is_unknown_to_hub(error) else WeightsError
    return kind(f"{name} can't be loaded: {_told(error)}")


def _is_spare(folder: Path, parts: list[str]) -> bool:
    """Whether a folder's feature extractor isn't there and only its safety checker would need it."""
    return folder.parent.is_dir() and not folder.exists() and "image_encoder" not in parts and folder.name in parts


def _told(error: Exception) -> str:
    """The loaders' error as the end of a sentence."""
    if failed := unreachable(error):
        return f"the network failed ({failed}). Check the connection or the proxy, or give a folder on this machine."
    told = first_sentence(error)
    if told.startswith("You set `ignore_mismatched_sizes`"):  # transformers prints which, and then says this
        return "the weights of a text encoder have other shapes than its config.json says."
    return told


def _resolved_dtype(dtype: Any, index: dict[str, Any]) -> Any:
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        return torch.bfloat16 if "transformer" in index else torch.float16
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype):
        raise BadRequestError(f"There is no dtype {dtype!r}; use float32, float16 or bfloat16.")
    return found


# What transformers says of sharding where nothing is sharded, and of torchvision, which nothing here needs.
_IDLE_WARNINGS = ("transformers.distributed.tensor_parallel", "transformers.utils.import_utils")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the loading bars of diffusers and transformers, and warnings about what isn't used; both libraries are
    left as they were.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in bars:
        log.disable_progress_bar()
    levels = {log: log.level for log in map(logging.getLogger, _IDLE_WARNINGS)}
    for log in levels:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
        for log in bars:
            log.enable_progress_bar()
