"""Names and pictures come first: given as people have them, screened for by default, and needing no calibration."""

import numpy as np
import pytest
from PIL import Image

from shield import Concepts, Gallery, Shield
from shield.errors import BadRequestError, GalleryError, RegistryError, ShieldError
from shield.protected.concepts import Concept, shipped_concepts
from shield.runtime.policy import Policy, preset
from tests.shield.calibration.test_on_call import ran
from tests.shield.calls import options, thresholds
from tests.tiny import tiny_sd
from tests.tiny_families import tiny_flux, tiny_picture, tiny_sd3, tiny_sdxl

BOLTO = 'concepts = [{ name = "Bolto", substitute = "a friendly robot" }]'


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures, one in a folder of its own, and a registry."""
    place = tmp_path_factory.mktemp("protected")
    (place / "more").mkdir()
    tiny_picture(1).save(place / "one.png")
    tiny_picture(2).save(place / "more" / "one.png")
    (place / "registry.toml").write_text(BOLTO, encoding="utf-8")
    return place


def names(pipe, given):
    return Shield(pipe, "names", concepts=given)


def test_concepts_as_people_have_them(pipe, folder):
    file = folder / "registry.toml"
    for given in (file, str(file), ["Bolto"], [Concept("Bolto")], Concepts.load(file)):
        assert [m.concept for m in names(pipe, given).screen.found("a picture of bolto")] == ["Bolto"]
    assert names(pipe, True).screen is names(pipe, None).screen is shipped_concepts()
    assert not names(pipe, False).screen.found("Mickey Mouse") and names(pipe, None).screen.found("Mickey Mouse")


@pytest.mark.parametrize("policy", ["balanced", "strict", "names", "monitor"])
def test_the_names_that_ship_are_screened_for_by_default(pipe, policy):
    given = thresholds(pipe, 1e9)
    (verdict,) = Shield(pipe, policy, thresholds=given)("Shrek on a chair", **options(1)).verdicts
    assert verdict.concepts == ("Shrek",) and verdict.flagged
    assert verdict.status == ("passed" if policy == "monitor" else "mitigated")
    (verdict,) = Shield(pipe, policy, thresholds=given, concepts=False)("Shrek on a chair", **options(1)).verdicts
    assert verdict.concepts == () and not verdict.flagged
    assert preset(policy).registry and Shield(pipe, Policy(registry=False), thresholds=given).screen is None


def test_galleries_as_people_have_them(pipe, folder, monkeypatch, tmp_path):
    saved = Gallery.from_folder(folder)
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    saved.save(tmp_path / "galleries" / "mine")
    for given in (folder, str(folder), "mine", tmp_path / "galleries" / "mine", saved):
        assert Shield(pipe, "names", given).gallery.works == ("more/one", "one")
    files = [folder / "one.png", str(folder / "more" / "one.png"), tiny_picture(3)]
    works = Shield(pipe, "names", files).gallery.works
    assert works == (f"{folder.name}/one", "more/one", "picture 3")
    assert Shield(pipe, "names", [folder / "one.png"]).gallery.nearest(tiny_picture(1)).copied


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("gallery", "no/such", "no folder of protected pictures"),
        ("gallery", [], "an empty list was given"),
        ("gallery", 3, "gallery is a folder, a list of paths or pictures, a Gallery, or None; 3 was given"),
        ("gallery", ["no.png"], "no.png can't be read as a picture"),
        ("gallery", [Image.new("RGB", (64, 64))], "one flat color"),
        ("concepts", "Bolto", "no registry of concepts at Bolto; to protect a name, give it in a list"),
        ("concepts", [3], "a list of int was given"),
        ("concepts", [], "an empty list was given"),
        ("concepts", 3, "concepts is a registry's file, a list of names"),
        ("concepts", ["!"], "without letters"),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_what_is_neither_is_refused_at_wrap(pipe, option, given, said):
    with pytest.raises((BadRequestError, GalleryError, RegistryError), match=said) as caught:
        Shield(pipe, "names", **{option: given})
    assert isinstance(caught.value, ShieldError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_sd3, tiny_flux])
def test_names_need_no_calibration_and_never_calibrate(make, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFSHIELD_HOME", str(tmp_path))
    pipe = make()
    small = {"height": 64, "width": 64, "max_sequence_length": 16} if make is tiny_flux else {}
    safe = Shield(pipe, "names", concepts=["Bolto"])
    bare, usual = ran(pipe, lambda: pipe("a dog", **options(1, **small)).images)
    output, spent = ran(pipe, lambda: safe("a dog", **options(1, **small)))
    assert spent == usual and np.array_equal(output.images, bare) and output.verdicts[0].scored
    (verdict,) = safe("a dog and Bolto", **options(1, **small)).verdicts
    assert (verdict.status, verdict.rewritten_prompt) == ("mitigated", "a dog and")
    assert verdict.scored and not list(tmp_path.rglob("*.json"))


def test_a_rewritten_name_is_drawn_where_no_detector_can_judge(pipe, folder):
    """Never the empty prompt in its place, unless the policy blocks what can't be judged."""
    passes = Policy(on_unscored="pass", on_unverified="report")
    safe = Shield(pipe, passes, concepts=folder / "registry.toml", thresholds=[], calibrate="never")
    (verdict,) = safe("Bolto on a chair", **options(1)).verdicts
    assert (verdict.status, verdict.mitigation) == ("mitigated", "embedding_mix")
    assert verdict.rewritten_prompt == "a friendly robot on a chair" and not verdict.scored
    safe.policy = "strict"
    assert safe("Bolto on a chair", **options(1)).verdicts[0].status == "blocked"
