from __future__ import annotations

import json

import numpy as np
import pytest

from nbutils.data.looks import files, find_path, look_at, tables, texts
from nbutils.errors import ContractError


def table(path, rows, header="size,label"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_look_at_table_tells_rows_columns_classes_and_gaps(tmp_path):
    rows = [f"{i / 10},{'cat' if i % 11 else 'dog'}" for i in range(44)] + [",cat"]
    look = look_at(table(tmp_path / "a.csv", rows))
    assert look.title == "45 rows, 2 columns"
    assert look.num_samples == 45
    assert look.class_counts == {"cat": 41, "dog": 4}
    facts = dict(look.facts)
    assert facts["size"] == "numbers, 0 to 4.3, 1 missing"
    assert facts["label by its name"] == "label"
    assert any("Missing values in size" in text for text in look.remarks)
    assert any("uneven: 41 of the largest, 4 of 'dog'" in t for t in look.remarks)


def test_look_at_table_of_many_rows_reads_the_first_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 100)
    rows = [f"{i:04d},{i % 2}" for i in range(1000)]
    look = look_at(table(tmp_path / "a.csv", rows))
    assert look.is_partial
    assert dict(look.facts)["looked at"] == "the first 100 rows"
    assert look.title.startswith("about ")
    assert 800 <= look.num_samples <= 1200


def test_look_at_table_ragged_and_constant_columns_are_remarked(tmp_path):
    look = look_at(table(tmp_path / "a.tsv", ["1\t5", "2\t5", "3"], "x\tzero"))
    assert "1 of 3 rows have another number of cells" in look.remarks[0]
    assert "Constant: zero" in look.remarks[1]


def test_look_at_arrays_reads_headers_only(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((6, 3), dtype=np.float32))
    assert dict(look_at(tmp_path / "x.npy").facts) == {"x": "float32 [6, 3]"}
    np.savez(tmp_path / "d.npz", x=np.zeros((6, 3)), y=np.arange(6))
    look = look_at(tmp_path / "d.npz")
    assert look.title == "2 arrays of 6 rows"
    assert look.num_samples == 6


def test_look_at_safetensors_and_objects(tmp_path):
    header = json.dumps({"w": {"shape": [2, 3], "dtype": "F32"}}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    assert dict(look_at(file).facts) == {"w": "F32 [2, 3]"}
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    assert "only a pickle can read" in look_at(tmp_path / "o.npy").remarks[0]


def test_look_at_text_tells_alphabet_and_first_line(tmp_path, monkeypatch):
    file = tmp_path / "t.txt"
    file.write_text("ab\nab\n", encoding="utf-8")
    facts = dict(look_at(file).facts)
    assert facts["lines"] == "2"
    assert facts["different characters"] == "3"
    assert facts["begins with"] == "ab"
    monkeypatch.setattr(texts, "MAX_BYTES", 3)
    assert look_at(file).is_partial
    file.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in look_at(file).remarks[0]


def test_look_at_records_counts_keys(tmp_path, monkeypatch):
    file = tmp_path / "r.jsonl"
    file.write_text('{"a": 7}\n\n{"a": 2, "b": 3}\n', encoding="utf-8")
    look = look_at(file)
    assert (look.title, look.num_samples) == ("2 records", 2)
    assert dict(look.facts)["keys"] == "a (100%), b (50%)"
    monkeypatch.setattr(texts, "MAX_LINES", 1)
    assert look_at(file).title == "the first 1 records"


def test_look_at_folder_counts_kinds_and_opens_the_first(tmp_path, monkeypatch):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.zeros((2, 2)))
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    look = look_at(tmp_path)
    facts = dict(look.facts)
    assert facts["kinds"] == "3 .npy, 1 .txt"
    assert facts["first of them"] == "0.npy: 1 array of 2 rows"
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "4.npy", np.zeros(1))
    monkeypatch.setattr(files, "MAX_FILES", 4)
    look = look_at(tmp_path)
    assert look.is_partial
    assert look.title.startswith("the first 4 files")


def test_look_at_unknown_kind_says_that_it_knows_no_more(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"1234")
    assert "Nothing more can be told" in look_at(tmp_path / "x.parquet").remarks[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.npy", b"zzz", "cannot be read: .* Its name says .npy"),
        ("x.npz", b"zzz", "cannot be read: it is no archive"),
        ("x.safetensors", b"zzzzzzzzzz", "it has no header of safetensors"),
        ("x.csv", b"a,b\n", "it has a header and no rows"),
        ("x.csv", b"\n", "it has no rows"),
        ("x.jsonl", b"{", "line 1 is no JSON"),
        ("x.txt", b"", "is empty"),
    ],
)
def test_look_at_broken_file_says_why(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=sentence):
        look_at(tmp_path / name)


def test_look_at_array_of_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x09\x00" + bytes(20))
    with pytest.raises(ContractError, match=r"its format \(9, 0\) is not known"):
        look_at(tmp_path / "x.npy")


def test_look_at_table_with_a_giant_cell_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CELL", 10)
    table(tmp_path / "a.csv", ["x" * 50 + ",1"])
    with pytest.raises(ContractError, match="it is no table: field larger"):
        look_at(tmp_path / "a.csv")


def test_look_at_empty_folder_is_refused(tmp_path):
    with pytest.raises(ContractError, match="holds no files"):
        look_at(tmp_path)


def test_find_path_missing_names_those_that_read_alike(tmp_path):
    (tmp_path / "Images").mkdir()
    with pytest.raises(ContractError, match="does not exist") as caught:
        find_path(tmp_path / "imgaes")
    assert f"Did you mean {str(tmp_path / 'Images')!r}?" in str(caught.value)
    with pytest.raises(ContractError) as caught:
        find_path(tmp_path / "imgaes" / "cats" / "deep")
    assert str(tmp_path / "Images") in str(caught.value)


def test_find_path_relative_looks_in_the_working_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ContractError, match="Did you mean 'photos'"):
        find_path("photso")
    assert find_path("photos").is_dir()
