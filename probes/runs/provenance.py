"""What a run was made with: its inputs, the versions of what decides a result, the commit of the source."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from probes.errors import RunChoiceError

_DISTRIBUTIONS = (
    "diffusion-shield",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open-clip-torch",
    "numpy",
    "faiss-cpu",
    "pdqhash",
    "safetensors",
    "pillow",
)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, or of the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def describe_input(path: Path) -> dict[str, str]:
    """What run.json keeps of an input file or folder: where it was, and its sha256. RunError if it isn't there."""
    if not path.exists():
        raise RunChoiceError(f"There is no file or folder {path}.")
    return {"path": str(path), "sha256": sha256_of(path)}


def versions() -> dict[str, str]:
    """Versions of Python and of every distribution that decides a result; those not installed are left out."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the source tree this file lies in, "+" appended if files differ from it; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
