"""What was drawn is read again."""

from pathlib import Path

from PIL import Image

from probes.bench.kept import Drawn, kept_pictures


def test_pictures_are_drawn_once_for_what_they_depend_on(tmp_path: Path) -> None:
    drawn: list[int] = []

    def draw() -> Drawn:
        drawn.append(1)
        return [Image.new("RGB", (4, 4), (10 * len(drawn), 0, 0))], ["passed"] * (len(drawn) - 1)

    first, again = (kept_pictures(tmp_path, ["memorized", ["a cat"], [7000]], draw) for _ in range(2))
    assert len(drawn) == 1 and first[1] == again[1] == []
    assert first[0][0].tobytes() == again[0][0].tobytes() == Image.new("RGB", (4, 4), (10, 0, 0)).tobytes()
    (other,), words = kept_pictures(tmp_path, ["memorized", ["a cat"], [7001]], draw)
    assert len(drawn) == 2 and other.tobytes() != first[0][0].tobytes() and words == ["passed"]
    assert not list(tmp_path.glob("*.part"))
