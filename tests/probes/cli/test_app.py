"""What every verb has: an example and groups in its help, --config, what Ctrl-C and a long prompt say."""

import logging
import time
from pathlib import Path

import httpx
import pytest
import typer.core
import typer.main
from rich.console import Console
from typer.testing import CliRunner, Result

from probes.cli import main
from probes.cli.app import App
from probes.model.truncated import CUT, counting, uncounted, watch
from probes.runs.progress import bars, lines
from shield.errors import unreachable
from tests.tiny import tiny_sd
from ui.verb import app

RUNNER = CliRunner()


def call(*arguments: str | Path | int) -> Result:
    return RUNNER.invoke(app, [str(a) for a in arguments])


def verbs(command=None, path: tuple[str, ...] = ()):
    """Every verb's words and its command."""
    command = command or typer.main.get_command(app)
    if isinstance(command, typer.core.TyperGroup):
        for name, inner in command.commands.items():
            yield from verbs(inner, (*path, name))
    else:
        yield path, command


@pytest.mark.parametrize("path, command", [pytest.param(*one, id=" ".join(one[0])) for one in verbs()])
def test_every_verb_has_an_example_that_parses_and_the_same_steps(path, command) -> None:
    _, found, example = (command.help or "").partition("Example: diffshield ")
    assert found, "there is no example"
    words = example.strip().replace('"an etching of a harbor"', "harbor").split()
    assert tuple(words[: len(path)]) == path
    command.make_context(" ".join(path), words[len(path) :])
    steps = next((param for param in command.params if "--steps" in param.opts), None)
    assert steps is None or ("Denoising steps" in steps.help and steps.default is None)
    assert {"--config", "--print-config"} <= {word for param in command.params for word in param.opts}


def test_options_are_in_groups() -> None:
    said = call("scan", "--help").stdout
    for panel in ("Model and sampling", "Prompts and references", "Run", "Result"):
        assert panel in said
    assert "Example: diffshield scan" in said


def test_a_printed_configuration_is_read_again_and_the_command_line_wins(tmp_path: Path) -> None:
    base = ("scan", "p.csv", "--out", tmp_path / "run", "--seeds", 3, "--error", 0.05, "--pictures")
    printed = call(*base, "--print-config")
    assert printed.exit_code == 0 and not (tmp_path / "run").exists(), (printed.output, printed.exception)
    file = tmp_path / "run.toml"
    file.write_text(printed.stdout)
    assert call("scan", "--config", file, "--print-config").stdout == printed.stdout
    other = call("scan", "--config", file, "--seeds", 5, "--print-config").stdout
    assert other == printed.stdout.replace("seeds = 3", "seeds = 5") != printed.stdout
    file.write_text('out = "here"\n[scan]\nprompts = "q.txt"\nfail_on_flag = true\n')
    said = call("scan", "--config", file, "--print-config").stdout
    assert 'out = "here"' in said and 'prompts = "q.txt"' in said and "fail-on-flag = true" in said


@pytest.mark.parametrize("text, says", [("sedes = 3", "sedes"), ("out = ", "TOML"), ("seeds = 'many'", "--seeds")])
def test_a_wrong_configuration_is_wrong_usage(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    done = call("scan", "--out", tmp_path / "run", "--config", tmp_path / "run.toml")
    assert done.exit_code == 2 and says in done.stderr and not (tmp_path / "run").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    stopping = App(cls=main.Verbs)

    @stopping.callback()
    def group() -> None: ...

    @stopping.command()
    def scan(out: Path, resume: bool = False) -> None:
        raise KeyboardInterrupt

    @stopping.command()
    def show() -> None:
        raise KeyboardInterrupt

    done = RUNNER.invoke(stopping, ["scan", "my runs/a"])
    assert done.exit_code == 130
    assert done.stderr == "diffshield: Interrupted. Go on with: diffshield scan 'my runs/a' --resume\n"
    assert RUNNER.invoke(stopping, ["scan", "a", "--resume"]).stderr.count("--resume") == 1
    assert RUNNER.invoke(stopping, ["show"]).stderr == "diffshield: Interrupted.\n"


def test_cut_prompts_are_counted_not_printed(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    long = "the cat and the dog " * 60
    base = ("--model", tmp_path / "model", "--steps", 1, "--policy", "names", "--out", tmp_path, "--device", "cpu")
    done = call("generate", long, *base)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stderr.count("1 prompt is longer than the text encoder reads") == 1
    assert "truncated" not in done.stderr
    assert "longer" not in call("generate", "the cat", *base).stderr


def test_prompts_that_ship_are_not_counted_as_too_long(capsys) -> None:
    log = logging.getLogger("diffusers")
    with counting() as counter:
        watch()
        with uncounted():
            log.warning(f"{CUT}: ['of ours']")
        assert counter.sentence() is None
        log.warning(f"{CUT}: ['of theirs']")
        assert counter.sentence() == "1 prompt is longer than the text encoder reads: its end was left out."
    assert capsys.readouterr().err == ""


def test_a_log_file_gets_lines(capsys) -> None:
    with bars() as track:
        advance = track("scan")
        for done in range(5):
            advance(done, 4)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == ["scan: 0 of 4, 0:00:00", "scan: 4 of 4, 0:00:00"]
    advance = lines(Console(stderr=True), every=0)("draw")
    time.sleep(0.02)
    advance(1, 2)
    assert capsys.readouterr().err == "draw: 1 of 2, 0:00:00, about 0:00:00 left\n"
    with bars(show=False) as track:
        track("quiet")(1, 2)
    assert capsys.readouterr().err == ""


def test_a_network_failure_is_called_one() -> None:
    with pytest.raises(OSError) as failed:
        try:
            httpx.get("http://127.0.0.1:9", trust_env=False)
        except httpx.ConnectError as error:
            raise OSError("There is no such file. Are you sure?") from error
    assert "refused" in (unreachable(failed.value) or "")
    assert unreachable(ValueError("ConnectError is only a word here")) is None
