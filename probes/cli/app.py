"""What every verb has: options in groups, --config and --print-config, and how to go on after Ctrl-C."""

from __future__ import annotations

import json
import math
import shlex
import tomllib
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from probes.model.truncated import counting
from shield.errors import reason_of

OWN = ("config", "print_config")
PANELS = {
    "Model and sampling": "model device dtype channels_last compiled steps guidance seed seeds batch batch_size",
    "Prompts and references": "prompts column limit nonmembers benign twin openclip registry concepts gallery",
    "Run": "out work resume engine workers ray_address shard config print_config",
    "Result": "as_json fail_on_flag gate junit model_card",
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}


def _from_file(ctx: typer.Context, file: Path | None) -> Path | None:
    """Takes a file's values for options that the command line leaves out."""
    if file is not None:
        ctx.default_map = {**(ctx.default_map or {}), **_values(ctx.command, file)}
    return file


def _shared(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=_from_file,
            help="A TOML file of option names and values; the command line wins over it.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all values as such a file, and do nothing else.")
    ] = False,
) -> None:
    """The options that a verb gets besides its own."""


@cache
def _shared_options() -> list[Any]:
    shared = typer.Typer(add_completion=False)
    shared.command()(_shared)
    return typer.main.get_command(shared).params


class Verb(typer.core.TyperCommand):
    """One verb; its words are kept so that an interrupted run can say how to go on."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **options: Any) -> None:
        super().__init__(*args, params=[*(params or []), *_shared_options()], **options)
        for param in self.params:
            if getattr(param, "rich_help_panel", "") is None and param.param_type_name == "option":
                param.rich_help_panel = _PANEL_OF.get(param.name or "")  # type: ignore[attr-defined]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = [*ctx.command_path.split()[1:], *args]
        rest = super().parse_args(ctx, args)
        for param in self.params:
            _check_number(ctx, param, ctx.params.get(param.name))
        return rest

    def invoke(self, ctx: Any) -> Any:
        _, printing = (ctx.params.pop(name, None) for name in OWN)
        if printing:
            return typer.echo(_as_toml(self, ctx.params))
        try:
            with counting() as truncations:
                return super().invoke(ctx)
        except KeyboardInterrupt:
            words = ctx.meta["words"]
            if not any("--resume" in param.opts for param in self.params):
                raise
            again = shlex.join(["diffshield", *words, *(() if "--resume" in words else ("--resume",))])
            raise KeyboardInterrupt(f"Interrupted. Go on with: {again}") from None
        finally:
            if said := truncations.sentence():
                typer.echo(f"diffshield: {said}", err=True)


class App(typer.Typer):
    """A group whose commands are verbs."""

    def command(self, name: str | None = None, *, cls: Any = Verb, **options: Any) -> Any:
        return super().command(name, cls=cls, **options)


def _check_number(ctx: Any, param: Any, value: Any) -> None:
    """BadParameter for a number that no verb can use: nan, one without end, a whole one that 64 bits don't hold."""
    if isinstance(value, float) and not math.isfinite(value) and value != param.default:
        raise typer.BadParameter(f"a finite number is needed, not {value}.", ctx, param)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise typer.BadParameter(f"a number from -2^63 to 2^63 - 1 is needed, not {value}.", ctx, param)


def _key(param: Any) -> str:
    """A parameter's name in a file: its long option without the dashes, or an argument's name."""
    long = next((word for word in param.opts if word.startswith("--")), param.name)
    return str(long).removeprefix("--")


def _values(command: Any, file: Path) -> dict[str, Any]:
    """Parameter name -> value: the file's top level, and its table of the verb's name. BadParameter otherwise."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"There is no file of options (.toml) at {file}.") from None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} can't be read as TOML: {reason_of(error)}.") from None
    top = {key: value for key, value in found.items() if not isinstance(value, dict)}
    given = {key.replace("_", "-"): value for key, value in {**top, **found.get(command.name, {})}.items()}
    known = {_key(param).replace("_", "-"): param for param in command.params if param.name not in (*OWN, "help")}
    if unknown := sorted(set(given) - set(known)):
        raise typer.BadParameter(
            f"{file} names {', '.join(unknown)}, which {command.name} doesn't take; it takes {', '.join(known)}."
        )
    return {known[key].name: value for key, value in given.items()}


def _as_toml(command: Any, values: dict[str, Any]) -> str:
    """All values as a file that --config reads; one that isn't set is a comment."""
    lines = [f"[{command.name}]"]
    for param in command.params:
        if param.name in values:
            value = values[param.name]
            lines.append(f"# {_key(param)}: not set" if value is None else f"{_key(param)} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A value in TOML, whose strings, numbers and lists are written as JSON's."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    plain = value.value if isinstance(value, Enum) else value
    return json.dumps(plain if isinstance(plain, bool | int | float | str) else str(plain), ensure_ascii=False)
