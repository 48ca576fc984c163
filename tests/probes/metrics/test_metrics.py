"""Copy scores, thresholds, neighbors and alignment: hand arithmetic and independent computations."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from probes import metrics
from probes.metrics import (
    Alignment,
    CopyJudge,
    NormalizedL2,
    Pdq,
    ReferenceIndex,
    Sscd,
    TiledL2,
    calibrate,
    load_calibrations,
    rgb,
    save_calibrations,
)
from probes.metrics.copies import pixels
from probes.metrics.judge import nearest_scores
from probes.metrics.second_opinion import sscd_metric
from probes.metrics.sscd import center, unit
from shield.errors import NotCalibratedError, WeightsError


def gray(value: int, side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), (value, value, value))


def noise(seed: int, side: int = 128, cells: int = 12) -> Image.Image:
    """A picture full of detail, different for every seed."""
    values = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def score(metric: metrics.Metric, one: Image.Image, other: Image.Image) -> float:
    return float(metric.compare(metric.features([one]), metric.features([other]))[0])


def test_tiled_l2_is_the_worst_tile() -> None:
    one, other = gray(0), gray(0)
    # One 16 px tile of the 64 px picture differs by 255 in a quarter of its area: sqrt(1/4) = 0.5 there, 0 elsewhere.
    ImageDraw.Draw(other).rectangle((16, 32, 23, 39), fill=(255, 255, 255))
    assert score(TiledL2(), one, other) == pytest.approx(0.5)
    # The plain distance forgives it: sqrt(64 / 4096) = 0.125.
    assert np.sqrt(((pixels([one], 64) - pixels([other], 64)) ** 2).mean()) == pytest.approx(0.125)
    assert score(TiledL2(tiles=1), one, other) == pytest.approx(0.125)


def test_tiled_l2_spreads_over_color_channels() -> None:
    # One of three channels differs by 255: sqrt(1/3).
    assert score(TiledL2(), gray(0), Image.new("RGB", (64, 64), (255, 0, 0))) == pytest.approx(3**-0.5)


def test_normalized_l2_divides_by_the_neighborhood() -> None:
    # Distances to the background 51, 102, 153 are 0.2, 0.4, 0.6; to the reference 0.2 (204 - 153 = 51).
    background = [gray(153 - 51), gray(153 + 102), gray(0)]
    metric = NormalizedL2.against(background)
    assert score(metric, gray(153), gray(204)) == pytest.approx(0.2 / (0.5 * 0.4), rel=1e-5)
    two = replace(metric, neighbors=2)
    assert score(two, gray(153), gray(204)) == pytest.approx(0.2 / (0.5 * 0.3), rel=1e-5)


def test_normalized_l2_leaves_out_the_reference_and_itself() -> None:
    background = [gray(0), gray(51), gray(255)]
    # Reference 51 is in the background: only 0 and 255 count, at 0.4 and 0.6 from 102.
    assert score(NormalizedL2.against(background), gray(102), gray(51)) == pytest.approx(0.2 / (0.5 * 0.5), rel=1e-5)
    # Leave-one-out: 0 against 51, only 255 left.
    assert score(NormalizedL2.against(background), gray(0), gray(51)) == pytest.approx(0.2 / (0.5 * 1.0), rel=1e-5)
    with pytest.raises(ValueError, match="at least two"):
        NormalizedL2.against(background[:1])


def test_normalized_l2_against_one_pair_at_a_time() -> None:
    background = [noise(s) for s in range(20, 28)]
    metric = replace(NormalizedL2.against(background), neighbors=5)
    ones, others = [noise(0), background[3], noise(1)], [noise(2), noise(4), background[5]]
    scores = metric.compare(metric.features(ones), metric.features(others))
    for one, other, found in zip(ones, others, scores, strict=True):
        a, b, *rest = (pixels([p], 64)[0].astype(float) for p in (one, other, *background))
        usual = sorted(np.sqrt(((a - r) ** 2).mean()) for r in rest if (r != a).any() and (r != b).any())[:5]
        assert found == pytest.approx(np.sqrt(((a - b) ** 2).mean()) / (0.5 * np.mean(usual)))


def test_normalized_l2_without_neighbors_cant_say() -> None:
    metric = NormalizedL2.against([gray(0), gray(9)])
    assert np.isnan(score(metric, gray(0), gray(9)))


def test_pdq_counts_bits_and_refuses_pictures_without_detail() -> None:
    one, other = noise(0), noise(1)
    assert score(Pdq(), one, one) == 0
    assert 90 < score(Pdq(), one, other) < 166
    blurred = one.filter(ImageFilter.GaussianBlur(2))
    assert score(Pdq(), one, blurred) < 31
    assert np.isnan(score(Pdq(), one, gray(128))) and np.isnan(score(Pdq(), gray(128), one))
    features = np.zeros((2, 257), dtype=np.float32)
    features[:, 256] = 100
    features[1, :7] = 1
    assert Pdq().compare(features[:1], features[1:])[0] == 7


@pytest.mark.parametrize(
    "metric", [TiledL2(), NormalizedL2.against([noise(s) for s in range(5, 9)]), Pdq()], ids=lambda m: m.name
)
def test_metrics_are_symmetric_batched_and_zero_for_copies(metric: metrics.Metric) -> None:
    ones, others = [noise(s) for s in (0, 1, 2)], [noise(s) for s in (3, 1, 4)]
    together = metric.compare(metric.features(ones), metric.features(others))
    alone = [score(metric, one, other) for one, other in zip(ones, others, strict=True)]
    assert together == pytest.approx(alone)
    assert together[1] == 0 and together[0] > 0 and together[2] > 0
    assert metric.compare(metric.features([]), metric.features([])).shape == (0,)


def test_transparent_pictures_lie_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.info["transparency"] = 0
    assert rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    assert rgb(Image.new("L", (8, 8), 7)).getpixel((0, 0)) == (7, 7, 7)


class Means(torch.nn.Module):
    """Stands where SSCD's network would: averages and spreads of each channel."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        flat = pictures.flatten(2)
        return torch.cat([flat.mean(2), flat.amax(2), flat.amin(2)], dim=1)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.torchscript.pt"
    torch.jit.save(torch.jit.script(Means()), str(path))
    return path


def test_sscd_mixup_squeezes_and_normalizes_like_imagenet(network: Path) -> None:
    picture = Image.new("RGB", (200, 100), (124, 116, 104))
    expected = [(124 / 255 - 0.485) / 0.229, (116 / 255 - 0.456) / 0.224, (104 / 255 - 0.406) / 0.225]
    vector = np.array([*expected, *expected, *expected])
    found = Sscd(network).features([picture])[0]
    assert found == pytest.approx(vector / np.linalg.norm(vector), abs=1e-4)
    assert Sscd(network)._tensor(picture).shape == (3, 320, 320)


def test_sscd_large_crops_the_center(network: Path) -> None:
    # Left and right quarters are white: a center crop of the black middle must not see them, squeezing would.
    picture = Image.new("RGB", (512, 256), (255, 255, 255))
    ImageDraw.Draw(picture).rectangle((128, 0, 383, 255), fill=(0, 0, 0))
    tensor = Sscd(network, "large")._tensor(picture)
    assert tensor.shape == (3, 224, 224) and tensor.min() == tensor.max() == -1.0
    assert center(Image.new("RGB", (100, 301)), 256, 224).size == (224, 224)


def test_sscd_scores_name_their_convention_and_are_cosines(network: Path) -> None:
    assert Sscd(network).preprocessing != Sscd(network, "large").preprocessing
    assert score(Sscd(network), noise(0), noise(0)) == pytest.approx(1)
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]]))[0] == pytest.approx([0.6, 0.8])
    assert np.isnan(unit(np.zeros((1, 2)))).all()
    many = [noise(s, side=32) for s in range(20)]
    assert Sscd(network).features(many)[19] == pytest.approx(Sscd(network).features(many[19:])[0], abs=1e-6)


def test_sscd_says_what_is_missing(tmp_path: Path, network: Path) -> None:
    with pytest.raises(WeightsError, match="no SSCD file"):
        Sscd(tmp_path / "missing.pt").features([gray(0)])
    (tmp_path / "broken.pt").write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="not a TorchScript file"):
        Sscd(tmp_path / "broken.pt").features([gray(0)])
    with pytest.raises(ValueError, match="mixup, large"):
        Sscd(network, "small")


def test_immaculate_sscd_where_it_is_installed() -> None:
    metric = metrics.ImmaculateSscd()
    if not metric.available():
        with pytest.raises(WeightsError, match="run .* `diffshield models get sscd`"):
            metric.features([gray(0)])
        return
    one = noise(0)
    assert score(metric, one, one) == pytest.approx(1, abs=1e-5)
    assert score(metric, one, one.filter(ImageFilter.GaussianBlur(1))) > score(metric, one, noise(1)) + 0.2


def test_the_int8_model_that_was_fetched_is_the_metric(tmp_path: Path) -> None:
    """No package carries it on Python 3.11: the file itself is enough, and another one is refused."""
    (tmp_path / "sscd.onnx").write_bytes(b"another program")
    metric = sscd_metric(tmp_path / "sscd.onnx")
    assert metric is not None and metric.name == "sscd_int8"
    with pytest.raises(WeightsError, match="no SSCD file's that is known"):
        metric.features([gray(0)])


def test_calibration_takes_the_nearest_pair_of_non_members() -> None:
    # TiledL2 of flat pictures is their difference over 255; each picture's smallest to another one, by hand:
    pictures = [gray(0), gray(51), gray(153), gray(255)]
    assert nearest_scores(TiledL2(), pictures) == pytest.approx([0.2, 0.2, 0.4, 0.4], rel=1e-5)
    found = calibrate(TiledL2(), pictures, margin=0.25)
    assert found.threshold == pytest.approx(0.15) and found.margin == pytest.approx(0.05)
    assert found.nearest == pytest.approx(0.2) and found.median == pytest.approx(0.3)
    assert (found.n, found.unscored, found.false_copies) == (4, 0, 0)
    # No false copy among four says little: Wilson's upper limit is z^2 / (n + z^2).
    assert found.false_copy_high == pytest.approx(1.959964**2 / (4 + 1.959964**2), abs=1e-5)
    assert found.copied(0.1499) is True and found.copied(0.1501) is False and found.copied(float("nan")) is None


def test_calibration_may_allow_some_false_copies() -> None:
    pictures = [gray(0), gray(51), gray(153), gray(255)]
    found = calibrate(TiledL2(), pictures, false_copy_rate=0.5, margin=0)
    assert found.threshold == pytest.approx(0.4) and found.false_copies == 2


def test_calibration_for_similarities_goes_up(network: Path) -> None:
    pictures = [noise(s, cells=3) for s in range(5)]
    metric = Sscd(network)
    found = calibrate(metric, pictures, margin=0.5)
    nearest = nearest_scores(metric, pictures).max()
    assert found.threshold == pytest.approx(nearest + (1 - nearest) / 2)
    assert found.copied(1.0) is True and found.copied(float(nearest)) is False


def test_a_featureless_average_is_no_copy() -> None:
    pictures = [noise(s, cells=6) for s in range(12)]
    average = Image.fromarray((pixels(pictures, 64).mean(axis=0) * 255).astype(np.uint8))
    for metric in (TiledL2(), NormalizedL2.against(pictures)):
        found = calibrate(metric, pictures)
        assert not any(found.copied(score(metric, average, picture)) for picture in pictures)


def test_calibration_needs_pictures_it_can_score() -> None:
    with pytest.raises(NotCalibratedError, match="got 0 of 4"):
        calibrate(Pdq(), [gray(0), gray(51), gray(153), gray(255)])
    with pytest.raises(NotCalibratedError, match="got 2 of 2"):
        calibrate(TiledL2(), [gray(0), gray(51)])


def test_thresholds_read_back(tmp_path: Path) -> None:
    pictures = [noise(s) for s in range(4)]
    stored = [calibrate(metric, pictures, source="test") for metric in (TiledL2(), Pdq())]
    save_calibrations(tmp_path / "copy_metrics.json", stored)
    assert load_calibrations(tmp_path / "copy_metrics.json") == {c.metric: c for c in stored}
    data = json.loads((tmp_path / "copy_metrics.json").read_text())
    assert data["metrics"]["pdq"]["preprocessing"] == Pdq().preprocessing


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "diffshield calibrate"),
        ("{", "no copy thresholds"),
        ("{}", "no copy thresholds"),
        ('{"format": 9, "metrics": {}}', "newer version"),
        ('{"format": 1, "metrics": {"pdq": {}}}', "no copy thresholds"),
    ],
)
def test_thresholds_that_cant_be_read(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "copy_metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NotCalibratedError, match=says):
        load_calibrations(path)


@pytest.fixture(scope="module")
def judge() -> CopyJudge:
    background = [noise(s) for s in range(10, 16)]
    chosen = [TiledL2(), Pdq()]
    return CopyJudge(chosen, {m.name: calibrate(m, background) for m in chosen})


def test_the_judge_tells_copies_from_others_and_from_what_it_cant_tell(judge: CopyJudge) -> None:
    reference = noise(0)
    blurred = reference.filter(ImageFilter.GaussianBlur(1))
    found = judge.judge([blurred, noise(1), noise(1)], [reference, reference, None])
    assert [j.copied for j in found] == [True, False, None]
    assert found[2].unjudged == "there is no reference picture" and found[2].scores == {"tiled_l2": None, "pdq": None}
    assert judge.verdicts(found[0].scores) == {"tiled_l2": True, "pdq": True}


def test_a_metric_that_cant_score_leaves_the_picture_unjudged(judge: CopyJudge) -> None:
    second = CopyJudge([Pdq(), TiledL2()], judge.calibrations)
    found = second.judge([gray(128)], [noise(0)])[0]
    assert found.copied is None and found.unjudged == "pdq can't score it"
    assert found.scores["pdq"] is None and found.scores["tiled_l2"] > 0
    assert second.verdicts(found.scores) == {"pdq": None, "tiled_l2": False}


def test_the_judge_refuses_thresholds_of_another_preprocessing(judge: CopyJudge) -> None:
    with pytest.raises(NotCalibratedError, match="was calibrated with"):
        CopyJudge([TiledL2(side=32)], judge.calibrations)
    with pytest.raises(NotCalibratedError, match="no threshold"):
        CopyJudge([TiledL2()], {})
    assert json.dumps(judge.describe())


def test_the_index_finds_what_comparing_with_all_finds() -> None:
    references = {f"work-{s}": noise(s) for s in range(30)}
    asked = [noise(7).filter(ImageFilter.GaussianBlur(2)), noise(21), noise(99)]
    for metric in (TiledL2(), Pdq()):
        index = ReferenceIndex(references, metric)
        found = index.nearest(asked, k=3)
        assert [row[0].id for row in found[:2]] == ["work-7", "work-21"] and found[1][0].score == 0
        for picture, row in zip(asked, found, strict=True):
            every = sorted((score(metric, picture, reference), name) for name, reference in references.items())
            assert [n.score for n in row] == pytest.approx([s for s, _ in every[:3]])
    assert ReferenceIndex(references, TiledL2()).nearest([]) == []
    with pytest.raises(ValueError, match="at least one"):
        ReferenceIndex({}, TiledL2())


def test_the_index_puts_what_cant_be_scored_last() -> None:
    index = ReferenceIndex({"flat": gray(128), "full": noise(0)}, Pdq())
    found = index.nearest([noise(1)], k=2)[0]
    assert [n.id for n in found] == ["full", "flat"] and np.isnan(found[1].score)


@pytest.fixture(scope="module")
def openclip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real OpenCLIP folder, tiny and untrained, in the layout that open_clip's own loader reads."""
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("openclip")
    vision_cfg = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": vision_cfg,
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_cfg)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))
    return folder


def test_alignment_is_the_cosine_that_openclip_gives(openclip: Path) -> None:
    import open_clip

    pictures, captions = [noise(0), noise(1), noise(2)], ["a cat", "a red dog", "two birds on a blue ground"]
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{openclip}")
    tokens = open_clip.get_tokenizer(f"local-dir:{openclip}")(captions)
    with torch.inference_mode():
        image = model.eval().encode_image(torch.stack([preprocess(p) for p in pictures]))
        expected = torch.nn.functional.cosine_similarity(image, model.encode_text(tokens)).numpy()
    alignment = Alignment(openclip, batch=2)
    assert alignment.similarity(pictures, captions) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="1 pictures and 3 captions"):
        alignment.similarity(pictures[:1], captions)
    assert alignment.similarity([], []).shape == (0,)


def test_retrieval_ranks_the_caption_among_its_distractors(openclip: Path) -> None:
    alignment = Alignment(openclip)
    texts = ["a cat", "a red dog", "two birds", "nothing"]
    cosines = alignment.embed_pictures([noise(0)])[0] @ alignment.embed_captions(texts).T
    order = [texts[i] for i in np.argsort(-cosines)]
    for rank, caption in enumerate(order, start=1):
        assert alignment.retrieval([noise(0)], [caption], [texts])[0] == rank
    assert alignment.retrieval([noise(0)], [order[0]], [[order[0]]])[0] == 1
    # The tokenizer ignores case: two captions with one embedding tie, and a tie isn't found.
    assert alignment.retrieval([noise(0)], ["a cat"], [["A CAT"]])[0] == 2
    assert alignment.retrieval([], [], []).shape == (0,)


def test_alignment_needs_an_openclip_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="open_clip_config.json"):
        Alignment(tmp_path)
