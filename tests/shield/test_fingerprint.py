import torch

from shield.fingerprint import model_sha256
from tests.tiny import tiny_sd


def test_one_checkpoint_has_one_fingerprint_in_every_dtype(tmp_path):
    unet = tiny_sd().unet.to(torch.float16)
    prints = {model_sha256(unet.to(dtype)) for dtype in (torch.float16, torch.float32, torch.bfloat16)}
    assert len(prints) == 1


def test_other_weights_and_other_names_have_another(pipe):
    first = model_sha256(pipe.unet)
    assert first == model_sha256(tiny_sd().unet) != model_sha256(tiny_sd(seed=1).unet)
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] += 1.0
    assert model_sha256(pipe.unet) != first
    one = torch.nn.Linear(2, 2)
    assert model_sha256(torch.nn.Sequential(one)) != model_sha256(one)
