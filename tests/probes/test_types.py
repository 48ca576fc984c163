"""Masks: their arithmetic, and that a file gives back what was saved."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from probes.errors import MaskError
from probes.types import Subject, UnitMask, natural_order
from tests.tiny import tiny_sd


def mask(**rows):
    return UnitMask({path: torch.tensor(values, dtype=torch.bool) for path, values in rows.items()})


def test_density_counts_weights_not_modules():
    both = mask(a=[[1, 0], [0, 0]], b=[[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert both.count() == 6 and both.size() == 16
    assert both.density() == 6 / 16
    assert both.densities() == {"a": 0.25, "b": pytest.approx(5 / 12)}
    assert UnitMask({}).density() == 0.0


def test_iou_by_hand():
    one, two = mask(a=[1, 1, 0, 0], b=[1, 0]), mask(a=[0, 1, 1, 0], b=[1, 0])
    assert one.iou(two) == 2 / 4
    assert one.union(two).count() == 4
    assert one.intersection(two).count() == 2


def test_iou_of_two_empty_masks_is_no_agreement():
    assert mask(a=[0, 0]).iou(mask(a=[0, 0])) is None


def test_a_module_that_only_one_mask_names_counts_as_empty_in_the_other():
    assert mask(a=[1, 0]).iou(mask(b=[1, 0])) == 0.0
    assert mask(a=[1, 0]).union(mask(b=[1, 1])).count() == 3


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(MaskError, match="shape"):
        mask(a=[1, 0]).iou(mask(a=[1, 0, 0]))


def test_only_bool_tensors_are_masks():
    with pytest.raises(MaskError, match="bool"):
        UnitMask({"a": torch.ones(2)})


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a.ff.net.2", "b.10", "b.2", "x"]), st.lists(st.booleans(), min_size=1, max_size=9), max_size=4
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
def test_a_saved_mask_reads_back_equal(tmp_path_factory, rows, meta):
    path = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    saved = UnitMask({name: torch.tensor(row) for name, row in rows.items()}, meta)
    saved.save(path)
    loaded = UnitMask.load(path)
    assert loaded.meta == meta
    assert list(loaded.masks) == sorted(rows, key=natural_order)
    assert all(torch.equal(loaded.masks[name], saved.masks[name]) for name in rows)


def test_files_that_are_no_masks_are_refused(tmp_path):
    with pytest.raises(MaskError, match="no mask at"):
        UnitMask.load(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(MaskError, match="can't be read"):
        UnitMask.load(tmp_path / "torn.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(MaskError, match="not a mask"):
        UnitMask.load(tmp_path / "weights.safetensors")


def test_a_mask_for_another_model_is_refused():
    unet = tiny_sd().unet
    with pytest.raises(MaskError, match="another model: it names nowhere"):
        mask(nowhere=[1]).check(unet)
    with pytest.raises(MaskError, match="conv_in has shape"):
        mask(conv_in=[1]).check(unet)


def test_a_subject_knows_its_denoiser_and_its_weights():
    subject = Subject(tiny_sd(), "tiny")
    assert subject.denoiser is subject.pipe.unet and subject.dtype == torch.float32
    before = subject.sha256()
    with torch.no_grad():
        subject.denoiser.conv_in.bias[0] += 0.5
    assert subject.sha256() != before


def test_blocks_sort_by_number():
    paths = ["up.10.ff", "up.2.ff", "down.1.ff", "mid.ff"]
    assert sorted(paths, key=natural_order) == ["down.1.ff", "mid.ff", "up.2.ff", "up.10.ff"]
