"""`import shield` offers every method and error, and each name is what it says."""

from importlib.metadata import version

import pytest

import probes
import shield
import ui
from shield import errors


def test_every_method_and_error_is_offered() -> None:
    methods = [one for table in (shield.DETECTORS, shield.MITIGATIONS, shield.REWRITERS) for one in table.values()]
    refusals = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ShieldError)]
    assert [one for one in [*methods, *refusals] if getattr(shield, one.__name__, None) is not one] == []
    assert {"Concepts", "Gallery", "Meaning", "Policy", "Shield", "Threshold", "load"} <= set(shield.__all__)


def test_every_name_that_is_offered_is_there() -> None:
    wrong = [name for name in shield.__all__ if getattr(getattr(shield, name), "__name__", name) != name]
    assert wrong == [] and dir(shield) == sorted(shield.__all__)
    with pytest.raises(AttributeError, match="'Shields'"):
        shield.Shields  # noqa: B018


def test_a_library_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library's AttributeError isn't taken for a name that we don't offer."""
    monkeypatch.setattr(shield, "import_module", lambda name: errors.accelerator)
    with pytest.raises(ImportError, match="Shield can't be imported .* 'accelerator'"):
        from shield import Shield  # noqa: F401


def test_the_version_is_the_distributions() -> None:
    assert {module.__version__ for module in (shield, probes, ui)} == {version("diffusion-shield")}
