"""When a device's memory is full."""

import gc

import torch


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch means that a device's memory is full; its own error for that is a RuntimeError too."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Gives back what is held for tensors that are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
