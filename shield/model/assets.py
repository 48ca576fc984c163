"""The shipped files: where they are, and whether they are what was shipped.

`weights/manifest.toml` lists each file with its size and sha256; a folder is checked against it before it is loaded,
so that a cut download or an edited file ends in one sentence instead of odd pictures. Thresholds aren't listed: a
folder that $DIFFSHIELD_WEIGHTS names may hold further ones.
"""

import hashlib
import os
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from shield.errors import WeightsError, reason_of
from shield.home import home
from shield.thresholds import Threshold, load_thresholds

MANIFEST = "manifest.toml"
UNLISTED = (
    "manifest.toml",
    "README.md",
    "thresholds",
    "NOTICE",
    "pyproject.toml",
    "build",
    "diffusion_shield_testbed.egg-info",
)
IGNORED = (".DS_Store",)  # what macOS puts into every folder that is looked at
ENVIRONMENT = "DIFFSHIELD_WEIGHTS"
PACKAGE = "diffusion_shield_testbed"


def weights_dir() -> Path:
    """The folder with the testbed: $DIFFSHIELD_WEIGHTS, else the first of `places` that is one. Raises WeightsError."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"No weights folder at {folder}; set {ENVIRONMENT} to the folder that holds {MANIFEST}.")
        return folder
    looked = places()
    for folder in looked:
        if (folder / MANIFEST).is_file():
            return folder
    raise WeightsError(
        f"The testbed isn't installed (looked in {', '.join(map(str, looked))}): run "
        "`pip install 'diffusion-shield[testbed]'`, or `pip install ./weights` in a checkout."
    )


def places() -> list[Path]:
    """Where the testbed is looked for, in this order: the checkout, the installed package, the user's data folder."""
    package = find_spec(PACKAGE)
    installed = package.submodule_search_locations if package is not None else None
    return [Path(__file__).resolve().parents[2] / "weights", *map(Path, installed or ()), home() / "weights"]


def own_thresholds_folder() -> Path:
    """Where thresholds are written by default: in the user's data folder."""
    return home() / "thresholds"


def thresholds_folders() -> list[Path]:
    """Where thresholds are looked for, in this order: the user's own, then the shipped ones if they are there."""
    try:
        return [own_thresholds_folder(), weights_dir() / "thresholds"]
    except WeightsError:  # the package without its testbed
        return [own_thresholds_folder()]


def stored_thresholds() -> list[Threshold]:
    """The user's own thresholds, then the shipped ones, so that the user's decide. Raises WeightsError."""
    return [threshold for folder in thresholds_folders() for threshold in load_thresholds(folder)]


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Listed files by name relative to `folder`. Raises WeightsError when the manifest is missing or unreadable."""
    path = folder / MANIFEST
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8")).get("file", [])
        return {entry["name"]: {"sha256": entry["sha256"], "bytes": entry["bytes"], **entry} for entry in listed}
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing, so the shipped files can't be checked; restore it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} can't be read ({reason_of(error)}); restore it.") from None


def verify(folder: Path, below: str = "") -> list[str]:
    """Checks every listed file under `below` (all when empty) and returns their names.

    Raises WeightsError for the first missing, altered or unlisted file, or when nothing is listed there.
    """
    listed = {n: e for n, e in read_manifest(folder).items() if _is_below(n, below)}
    if not listed:
        raise WeightsError(f"{folder / MANIFEST} lists nothing under {below!r}; restore the shipped weights.")
    for name, entry in listed.items():
        _verify_file(folder / name, entry)
    for name in _files(folder / below, folder):
        if name not in listed:
            raise WeightsError(f"{folder / name} isn't in {MANIFEST}; remove it or list it with `write_manifest`.")
    return sorted(listed)


def _is_below(name: str, below: str) -> bool:
    return not below or PurePosixPath(name).is_relative_to(PurePosixPath(below))


def _verify_file(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing; restore the shipped weights.")
    if path.stat().st_size != entry["bytes"]:
        found = path.stat().st_size
        raise WeightsError(f"{path} has {found} bytes, {entry['bytes']} were shipped; restore the shipped weights.")
    if sha256_of(path) != entry["sha256"]:
        raise WeightsError(f"{path} was altered (its sha256 isn't the shipped one); restore the shipped weights.")


def _files(below: Path, folder: Path) -> list[str]:
    """Names relative to `folder` of the files under `below` that a manifest lists, sorted: hidden ones and those in
    linked folders too, because a loader would read them.
    """
    names = list[Path]()
    above: dict[Path, tuple[Path, ...]] = {below: (below.resolve(),)}
    for place, folders, files in os.walk(below, followlinks=True):
        here = Path(place)
        names += [(here / file).relative_to(folder) for file in files if file not in IGNORED]
        for name in list(folders):
            target = (here / name).resolve()
            if target in above[here]:  # a circle of links
                folders.remove(name)
            above[here / name] = (*above[here], target)
    return sorted(name.as_posix() for name in names if name.parts[0] not in UNLISTED)


def write_manifest(folder: Path, licence: str | Callable[[str], str], source: str | Callable[[str], str]) -> Path:
    """Lists every file under `folder` in its manifest.toml, written whole or not at all, and returns the path.

    `licence` and `source` are texts, or functions of a file's name.
    """
    blocks = []
    for name in _files(folder, folder):
        path = folder / name
        fields: dict[str, str | int] = {
            "name": name,
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "licence": licence(name) if callable(licence) else licence,
            "source": source(name) if callable(source) else source,
        }
        blocks.append("[[file]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in fields.items()))
    target, part = folder / MANIFEST, folder / f"{MANIFEST}.part"
    part.write_text("\n".join(blocks), encoding="utf-8")
    part.replace(target)
    return target


def _toml(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
