"""Prompt files: the formats, and one clear sentence for each way to be wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probes.errors import PromptFileError
from probes.inputs.prompts import PromptRecord, read_prompts


def texts(path, **options):
    return [target.prompt for target in read_prompts(path, **options)]


def test_txt_keeps_line_numbers(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa cat\n\n  ein Hündchen \r\n".encode())
    assert read_prompts(path) == [PromptRecord("prompt-000001", "a cat"), PromptRecord("prompt-000003", "ein Hündchen")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_by_any_delimiter(tmp_path, delimiter):
    path = tmp_path / "p.csv"
    rows = [["Index", "Caption"], ["1", '"a cat, red; and\na dog"']]
    path.write_text("\n".join(map(delimiter.join, rows)))
    assert texts(path) == ["a cat, red; and\na dog"]


def test_jsonl_objects_and_strings(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"caption": "one", "url": 3}\n\n')
    assert texts(path) == ["one"]
    path.write_text('"one"\n"two"\n')
    assert texts(path) == ["one", "two"]


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["one", None]}), path)
    assert texts(path) == ["one"]
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(PromptFileError, match="parquet"):
        read_prompts(path)


def test_an_imagefolder_brings_its_pictures(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [{"file_name": "a.png", "text": "one"}, {"file_name": "gone.png", "text": "two"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read_prompts(tmp_path)
    assert first.reference == tmp_path / "a.png" and second.reference is None


def test_the_column_can_be_named(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,Alt\none,two\n")
    assert texts(path, column="alt") == ["two"]
    with pytest.raises(PromptFileError, match="needs a column missing; it has 'prompt', 'Alt'"):
        read_prompts(path, column="missing")


def test_a_limit_stops_reading_a_long_file(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a prompt\n" * 1_000_000)
    assert len(read_prompts(path, limit=3)) == 3


@pytest.mark.slow
def test_a_million_lines_are_read(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,prompt\n" + "".join(f"{n},prompt number {n}\n" for n in range(1_000_000)))
    targets = read_prompts(path)
    assert len(targets) == 1_000_000 and targets[-1].prompt == "prompt number 999999"
    assert len({target.id for target in targets}) == 1_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"one\ncaf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("p.csv", b"", "holds no prompt"),
        ("p.csv", b"a,b\n1,2\n", "needs a column prompt or"),
        ("p.jsonl", b"{", "line 1 is not JSON"),
        ("p.jsonl", b"[1]", "needs an object or a string, and is list"),
        ("p.jsonl", b'{"prompt": 3}', "needs text, and holds 3"),
        ("p.docx", b"x", "none of these"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptFileError, match=message):
        read_prompts(tmp_path / name)


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(PromptFileError, match="no prompt file at"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(PromptFileError, match="holds no metadata"):
        read_prompts(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([".txt", ".csv", ".jsonl", ".parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("any") / f"p{suffix}"
    path.write_bytes(content)
    try:
        assert all(target.prompt for target in read_prompts(path))
    except PromptFileError:
        pass


def test_rows_with_more_fields_than_columns_are_refused(tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text("prompt\na dog\na cat, oil on canvas, by a lake\n")
    with pytest.raises(PromptFileError, match="line 3 has more fields than the header has columns"):
        read_prompts(file)
    file.write_text('prompt\na dog\n"a cat, oil on canvas, by a lake"\n')
    assert [target.prompt for target in read_prompts(file)] == ["a dog", "a cat, oil on canvas, by a lake"]


def test_every_shard_of_a_folder_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(3):
        rows = "".join(json.dumps({"prompt": f"caption {number}{letter}"}) + "\n" for letter in "ab")
        (tmp_path / "data" / f"prompts-{number}.jsonl").write_text(rows)
    (tmp_path / "data" / "prompts.jsonl").write_text(json.dumps({"prompt": "one"}) + "\n")
    assert [target.prompt for target in read_prompts(tmp_path)] == ["one"]
    for number in range(3):
        folder = tmp_path / "data" / str(number)
        folder.mkdir()
        (folder / "metadata.jsonl").write_text(json.dumps({"prompt": f"caption {number}"}) + "\n")
    found = list(read_prompts(tmp_path))
    assert [target.prompt for target in found] == ["caption 0", "caption 1", "caption 2"]
    assert len({target.id for target in found}) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_files_that_say_their_encoding_are_read(tmp_path, encoding):
    """As spreadsheets save them. Their first byte is no sign of latin1."""
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    files = {"p.csv": "prompt\r\na caf\u00e9\r\n", "p.txt": "a caf\u00e9\n", "p.jsonl": '"a caf\u00e9"\n'}
    for name, text in files.items():
        (tmp_path / name).write_bytes((mark + text).encode(encoding))
        assert [target.prompt for target in read_prompts(tmp_path / name)] == ["a caf\u00e9"]
    (tmp_path / "p.txt").write_bytes("a cat\n".encode("utf-16")[:-1])
    with pytest.raises(PromptFileError, match="UTF-16"):
        read_prompts(tmp_path / "p.txt")
