"""Methods of other distributions: found by their entry points; left out with one sentence if they can't be used."""

import json
import re
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from probes.attacks import ATTACKS
from probes.localizers import LOCALIZERS
from shield.detectors import DETECTORS, NoiseGap
from shield.detectors import SHIPPED as DETECTORS_SHIPPED
from shield.method_table import MethodTable
from shield.mitigations import MITIGATIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-own-detector.md"
TABLES = (DETECTORS, MITIGATIONS, ATTACKS, LOCALIZERS)


def installed(folder: Path, name: str, module: str, points: str) -> None:
    """What pip leaves of a distribution: its module, and a dist-info that names its entry points."""
    (folder / f"{name.replace('-', '_')}.py").write_text(module)
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions; the tables look again, and forget it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for table in TABLES:
        table.__dict__.pop("others", None)
    yield tmp_path
    for table in TABLES:
        table.__dict__.pop("others", None)


def test_the_pages_detector_scores_a_scan(site, monkeypatch):
    text = PAGE.read_text(encoding="utf-8")
    module, project = (re.search(f"```{kind}\n(.*?)```", text, re.S)[1] for kind in ("python", "toml"))
    group, point = re.search(r'entry-points."(.*?)"\]\n(.*)', project).groups()
    installed(site, "my-detectors", module, f"[{group}]\n{point}\n".replace('"', ""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [name for name in DETECTORS if name not in DETECTORS_SHIPPED] == ["peak_gap"]
    import probes
    from tests.tiny import tiny_sd

    table = probes.scan(tiny_sd(), ["the cat", "red"], detectors=["peak_gap", "noise_gap"])
    assert all(row["score_peak_gap"] > row["score_noise_gap"] > 0 for row in table)  # a maximum over a mean
    from probes.cli.main import app

    found = json.loads(CliRunner().invoke(app, ["list", "detectors", "--json"]).stdout)["detectors"]
    assert found["peak_gap"]["class"] == "my_detectors:PeakGap" and found["noise_gap"]["about"].startswith("Mean over")


def test_what_cannot_be_used_is_left_out_with_one_sentence(site):
    method = "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Method:\n    name = 'bare'\n"
    installed(
        site,
        "odd-methods",
        method + "    score = needs = first_k = 1\n\nclass Plain:\n    name = 'plain'\n\nnumber = 3\n",
        "[diffusion_shield.detectors]\n"
        "noise_gap = odd_methods:Method\nbare = odd_methods:Method\nother = odd_methods:Method\n"
        "plain = odd_methods:Plain\nnumber = odd_methods:number\ngone = no_such_module:Method\n"
        "[diffusion_shield.attacks]\nbare = odd_methods:Method\n",
    )
    with pytest.warns(UserWarning) as said:
        assert list(DETECTORS) == [*DETECTORS_SHIPPED, "bare"]
        assert "bare" not in ATTACKS and "bare" in DETECTORS
    assert DETECTORS["noise_gap"] is NoiseGap and DETECTORS.get("gone") is None
    told = {str(one.message).split(" of ")[0]: str(one.message) for one in said}
    assert told.keys() == {"noise_gap", "other", "plain", "number", "gone", "bare"} and len(said) == 6
    assert all("pip uninstall odd-methods" in text for text in told.values())
    assert "of this name already" in told["noise_gap"] and "'bare', not the entry point" in told["other"]
    assert "is no dataclass" in told["plain"] and "is a int" in told["number"] and "no_such_module" in told["gone"]
    assert "no steps and no batch and no rows and no evaluations and no search" in told["bare"]


def test_shipped_methods_are_found_without_looking_at_others(monkeypatch):
    table = MethodTable("diffusion_shield.detectors", DETECTORS_SHIPPED, needs=())
    monkeypatch.setattr("shield.method_table.entry_points", lambda **group: pytest.fail("looked"))
    assert "noise_gap" in table and table["noise_gap"] is NoiseGap


@pytest.mark.parametrize("kind", ["detectors", "mitigations", "attacks", "localizers", "families"])
def test_every_kind_is_listed(kind):
    from probes.cli.main import app

    done = CliRunner().invoke(app, ["list", kind])
    known = {"detectors": "noise_gap", "mitigations": "embedding_mix", "attacks": "paraphrase"}
    known |= {"localizers": "curvature", "families": "sd3"}
    assert done.exit_code == 0 and any(re.match(rf"{known[kind]} +\S", line) for line in done.stdout.splitlines())
    assert CliRunner().invoke(app, ["list", "nothing"]).exit_code == 2
