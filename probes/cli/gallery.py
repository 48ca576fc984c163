"""diffshield gallery build | check: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probes.cli.app import App
from probes.cli.options import FailOnFlag, Json, bar, exit_if, printed

gallery_app = App(no_args_is_help=True, help="Galleries of protected pictures: build one, check pictures.")


@gallery_app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Folder of protected pictures, and the folders in it.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to save it; by default under the folder's name in the user's data folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep what pictures look like, not the pictures, so that they needn't be read again.

    Example: diffshield gallery build pictures
    """
    from probes.verbs.gallery import build_gallery

    with bar("pictures") as progress:
        gallery, saved = build_gallery(folder, out, progress=progress)
    found = {"gallery": str(saved), "pictures": len(gallery), "works": len(set(gallery.works))}
    found["descriptors"] = list(gallery.descriptors)
    printed(found, as_json, f"{len(gallery)} pictures, by {', '.join(gallery.descriptors)}: {saved}")


@gallery_app.command()
def check(
    images: Annotated[list[Path], typer.Argument(help="Pictures to compare.")],
    gallery: Annotated[str, typer.Option(help="A saved gallery's folder or name, or a folder of pictures.")],
    fail_on_flag: FailOnFlag = False,
    as_json: Json = False,
) -> None:
    """Say of each picture which protected one it is most like, and whether it copies it.

    Example: diffshield gallery check drawn.png --gallery pictures
    """
    from dataclasses import asdict

    from probes.verbs.gallery import check_images

    found = check_images(images, gallery)
    lines = [
        f"{image}: {'a copy of' if near.copied else 'near, but no copy of' if near.near else 'no copy; nearest is'} "
        f"{near.work} ({near.metric} {near.score:.3f}, a copy above {near.threshold:.3f})"
        for image, near in found.items()
    ]
    printed({str(image): asdict(near) for image, near in found.items()}, as_json, "\n".join(lines))
    exit_if(any(near.copied for near in found.values()), fail_on_flag)
