"""Every command of docs/real-checkpoints.md is one that the command line takes; the comparison of two scans adds up."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from examples.separated import scores, text_auroc
from probes.runs.folder import Run
from ui.verb import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "real-checkpoints.md").read_text(encoding="utf-8")
VALUES = {"STEPS": "50", "GUIDANCE": "7.5"}


def commands(program: str) -> list[list[str]]:
    """The page's indented lines that begin like this, as words without the program."""
    lines = re.findall(rf"^    {re.escape(program)} (.+)$", PAGE, re.MULTILINE)
    return [[VALUES.get(word, word) for word in shlex.split(line)] for line in lines]


@pytest.mark.parametrize("words", commands("diffshield"), ids=lambda words: words[0])
def test_a_command_of_the_page_is_taken(words: list[str]) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("diffshield", list(words), resilient_parsing=False)
    verb, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    taken = command.make_context(verb, rest)
    assert not taken.args and taken.params


def test_every_verb_of_an_audit_is_on_the_page() -> None:
    verbs = {words[0] for words in commands("diffshield")}
    assert verbs == {"calibrate", "scan", "localize", "prune", "attack", "harden", "audit", "report"}


@pytest.mark.parametrize("script", sorted({words[0] for words in commands("python")}))
def test_a_script_of_the_page_says_what_it_takes(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout


def test_scores_are_means_over_seeds_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    with Run.start(tmp_path / "scan", {}, resume=False, kind="scan") as run:
        for seed, value in enumerate((1.0, 2.0, None)):
            run.append({"id": str(seed), "prompt": "a", "scores": {"noise_gap": value}})
        run.finish("complete")
    assert scores(tmp_path / "scan") == ({"noise_gap": {"a": 1.5}}, 1)


def test_the_texts_control_tells_unlike_texts_apart_and_like_ones_not() -> None:
    words = [f"{a}{b}" for a in "abcdefgh" for b in "ijklmnop"]
    assert text_auroc([f"buy {w} now" for w in words], [f"{w} at night" for w in words]) == 1.0
    assert 0.3 < text_auroc([f"buy {w} now" for w in words[::2]], [f"buy {w} now" for w in words[1::2]]) < 0.7
