"""The console script: the verbs of probes/cli.py and, since nothing may import this package, `ui` beside them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.cli import app, main
from probes.options import Device, Model
from shield.errors import BadRequestError

__all__ = ["app", "main"]


@app.command()
def ui(
    model: Model = "testbed",
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for every machine that can reach this one.")
                    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")] = None,
    auth: Annotated[str | None, typer.Option(envvar="DIFFSHIELD_UI_AUTH", help="USER:PASSWORD that visitors need.")
                    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also at a public address, through Gradio's servers.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further name that the page is reached by, as behind a "
                                                         "proxy; repeat it, .example.org for all below, * for any.")
                          ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    protected: Annotated[Path | None, typer.Option(help="Folder of concepts and gallery; by default RUNS/protected.")
                         ] = None,
    device: Device = "auto",
) -> None:
    """Open the page in a browser: shield a prompt, edit what is protected, look into audits."""
    user = _user(auth)
    if user is None and (share or host not in ("127.0.0.1", "localhost", "::1")):
        typer.echo("diffshield: everyone who reaches this page can use it; --auth USER:PASSWORD asks who they are.",
                   err=True)
    application = _application()
    page = application.page_of(model, runs, protected, device)
    blocks = application.launched(page, host, port, share=share, auth=user, hosts=allow_host or ())
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what follows is closed
    try:
        typer.echo(f"The page is at {blocks.share_url or blocks.local_url} (Ctrl-C ends it).")
        sys.stdout.flush()
        blocks.block_thread()
    finally:
        page.close()
        blocks.close(verbose=False)


def _user(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not (name and colon and password):
        raise BadRequestError("--auth needs a name and a password with a colon between them: USER:PASSWORD.")
    return name, password


def _application() -> Any:
    """Gradio takes seconds to import, and other verbs don't need it."""
    try:
        from ui import app as application
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise BadRequestError("The page needs gradio: pip install 'diffusion-shield[ui]'.") from None
    return application


if __name__ == "__main__":
    main()
