"""What a caller in Python gives: prompts as a list or a file, pictures or their files, a run folder or none."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from probes.errors import RunChoiceError
from probes.inputs.pictures import reference_picture
from probes.paths import as_path
from shield.errors import BadRequestError

Picture = Image.Image | Path | str
Prompts = str | Path | Sequence[str | tuple[str, Picture]]
"""A file, or a list of prompts; (prompt, reference picture) for a work that copies are to be told of."""


def opened_picture(picture: Picture) -> Image.Image:
    """A picture as it is, or that of a file. PromptFileError for a file that is none."""
    return picture if isinstance(picture, Image.Image) else reference_picture(Path(picture))


def run_folder(out: Path | str | None, resume: bool) -> Path:
    """The run folder; RunError for one that holds a run, unless that is to go on."""
    if out is None:
        folder = Path(tempfile.mkdtemp(prefix="probes-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    if (Path(out) / "run.json").exists() and not resume:
        raise RunChoiceError(f"There is a run in {out} already. Give resume=True to go on with it, or another out.")
    return Path(out)


def prompt_file(prompts: Prompts | None, folder: Path, name: str) -> Path | None:
    """A prompt file as it is; a list as a file in the run folder, so that the folder says what was asked."""
    if prompts is None or isinstance(prompts, str | Path):
        return as_path(prompts)
    rows = []
    for number, given in enumerate(prompts, start=1):
        prompt, picture = (given, None) if isinstance(given, str) else given
        if not isinstance(prompt, str):
            raise BadRequestError(f"A prompt is a text, or a text and a picture; number {number} is {prompt!r}.")
        rows.append({"prompt": prompt, "picture": _saved(picture, folder / name / f"{number:06d}.png")})
    file, text = folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise RunChoiceError(f"{folder} was begun with other prompts; give those it began with, or another out.")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _saved(picture: Picture | None, file: Path) -> str | None:
    if picture is None:
        return None
    if not isinstance(picture, Image.Image):
        return str(Path(picture).resolve())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return str(file.resolve())
