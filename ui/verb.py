"""The console script: the verbs of probes/cli/main.py and, since nothing may import this package, `ui` and `serve`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from probes.cli.main import app, main
from probes.cli.options import Concepts, Device, GalleryAt, Model, PolicyName, Thresholds
from shield.errors import BadRequestError
from shield.extras import extras_named
from shield.model.loading import check_name

__all__ = ["app", "main"]

Host = Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for every machine that can reach this one.")]
LOCAL = ("127.0.0.1", "localhost", "::1")


@app.command()
def ui(
    model: Model = "testbed",
    host: Host = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")] = None,
    auth: Annotated[
        str | None, typer.Option(envvar="DIFFSHIELD_UI_AUTH", help="USER:PASSWORD that visitors need.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also at a public address, through Gradio's servers.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name that the page is reached by, as behind a "
            "proxy; repeat it, .example.org for all below, * for any."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    protected: Annotated[
        Path | None, typer.Option(help="Folder of concepts and gallery; by default RUNS/protected.")
    ] = None,
    concepts: Annotated[
        list[str] | None,
        typer.Option(help="What a new --protected begins with: a name, or a registry (.toml); repeat it."),
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of pictures that a new --protected begins with.")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="The folder that diffshield calibrate wrote to.")] = None,
    device: Device = "auto",
) -> None:
    """Open the page in a browser: shield a prompt, edit what is protected, look into audits.

    Example: diffshield ui --model testbed
    """
    user = _user(auth)
    check_name(model)
    if user is None and (share or host not in LOCAL):
        typer.echo(
            "diffshield: everyone who reaches this page can use it; --auth USER:PASSWORD asks who they are.", err=True
        )
    with extras_named("ui"):
        from ui import app as application
    page = application.page_of(model, runs, protected, device, concepts or (), gallery, thresholds)
    blocks = application.launched(page, host, port, share=share, auth=user, hosts=allow_host or ())
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what follows is closed
    try:
        with ExitStack() as stack:
            stack.callback(blocks.close, verbose=False)
            stack.callback(page.close)
            typer.echo(f"The page is at {blocks.share_url or blocks.local_url} (Ctrl-C ends it).")
            sys.stdout.flush()
            application.prepared(page)
            blocks.block_thread()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))  # an interpreter that ends while a thread still draws aborts instead


@app.command()
def serve(
    model: Model = "testbed",
    policy: PolicyName = "balanced",
    gallery: GalleryAt = None,
    concepts: Concepts = None,
    thresholds: Thresholds = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name that the service is reached by; repeat it, .example.org for all below, * for any."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="DIFFSHIELD_API_KEY", help="What clients have to send as a bearer token.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that wait at most.")] = 64,
    of_one: Annotated[int, typer.Option(min=1, help="Requests of one client that wait at most.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Images in one pipeline call at most.")] = 4,
    verdicts: Annotated[
        Path | None, typer.Option(help="A file that every verdict is appended to (JSON lines).")
    ] = None,
    tell: Annotated[
        bool, typer.Option("--tell/--no-tell", help="Whether clients are told verdicts with scores.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Serve a shielded model with OpenAI's image API: POST /v1/images/generations.

    Example: diffshield serve --model testbed --port 8000
    """
    with extras_named("serve"):
        import uvicorn

        from ui import service
    from shield import Shield, load

    safe = Shield(load(model, device), policy, gallery, list(concepts or ()) or None, thresholds)
    if api_key is None and host not in LOCAL:
        typer.echo("diffshield: everyone who reaches this service can use it; --api-key asks for a key.", err=True)
    served = service.Service(
        safe, model, waiting=waiting, of_one=of_one, batch=batch, verdict_log=verdicts, verdicts=tell, api_key=api_key
    )
    try:
        uvicorn.run(service.routes(served, host, allow_host or ()), host=host, port=port)
    finally:
        served.close()


def _user(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not (name and colon and password):
        raise BadRequestError("--auth needs a name and a password with a colon between them: USER:PASSWORD.")
    return name, password


if __name__ == "__main__":
    main()
