"""Files of tensors: whole or not there, and one sentence for what can't be written or read."""

import subprocess
import sys

import pytest
import torch

from probes.errors import TensorFileError
from probes.runs.tensors import read_tensors, write_tensors


def test_tensors_read_back_with_their_header(tmp_path):
    path = tmp_path / "folder" / "a.safetensors"
    values = torch.arange(6.0).reshape(2, 3)
    write_tensors(path, {"a": values.T, "b": values.requires_grad_()}, {"what": "test"})
    header, tensors = read_tensors(path)
    assert header == {"what": "test"} and torch.equal(tensors["a"], values.T) and torch.equal(tensors["b"], values)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"torn", b"\x08\0\0\0\0\0\0\0{}"])
def test_damage_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content[:9])
    with pytest.raises(TensorFileError, match="can't be read") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


FULL = """
import resource, sys
from pathlib import Path
import torch
from probes.errors import TensorFileError
from probes.runs.tensors import write_tensors
path = Path(sys.argv[1])
write_tensors(path, {"a": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_tensors(path, {"a": torch.zeros(100_000)})
except TensorFileError as error:
    print(error)
"""


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path):
    pytest.importorskip("resource", reason="needs a limit on file sizes, which POSIX has")
    path = tmp_path / "a.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and "Can't write" in done.stdout and done.stdout.count("\n") == 1, done
    assert read_tensors(path)[1]["a"].shape == (10,) and [file.name for file in tmp_path.iterdir()] == [path.name]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TensorFileError, match="Can't write"):
        write_tensors(tmp_path / "file" / "b.safetensors", {"a": torch.zeros(1)})
