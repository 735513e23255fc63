"""Where records lie in files, whatever their line ends."""

from __future__ import annotations

import json

import pytest

from openjanus.data.files.index import (
    Records,
    find_files,
    scan_json,
    scan_lines,
    scan_paragraphs,
    scan_whole,
)


def records(path, scan=scan_json, suffixes=(".jsonl", ".json", ".txt")):
    return Records(find_files(str(path), suffixes), scan)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_named_as_an_editor_counts_them(write_lines, end):
    path = write_lines("a.jsonl", [{"x": "ä"}, "", "   ", {"x": "日本"}], end=end)
    found = records(path)
    assert [found.key(i) for i in range(len(found))] == ["a.jsonl:1", "a.jsonl:4"]
    assert [found.read_object(i) for i in range(2)] == [{"x": "ä"}, {"x": "日本"}]


def test_a_last_line_without_an_end_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"x": 1}\n{"x": 2}')
    assert [records(path).read_object(i)["x"] for i in range(2)] == [1, 2]


def test_an_array_is_indexed_without_being_parsed(tmp_path):
    data = [{"x": 'quote " brace } [ \\'}, {"x": {"deep": [1, {"y": []}]}}, {"x": "ü"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
    found = records(path)
    assert [found.read_object(i) for i in range(len(found))] == data
    line = found.key(2).partition(":")[2]
    assert path.read_text(encoding="utf-8").splitlines()[int(line) - 1].strip() == "{"


@pytest.mark.parametrize("text", ['{"x": 1}', '[{"x": 1}', "", "[", "words"])
def test_what_is_no_array_is_told(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json .*array of"):
        records(path)


def test_paragraphs_lines_and_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\none\r\ntwo\r\n\r\n \nthree\n")
    expected = {
        scan_paragraphs: [("a.txt:2", "one\r\ntwo"), ("a.txt:6", "three")],
        scan_lines: [("a.txt:2", "one"), ("a.txt:3", "two"), ("a.txt:6", "three")],
        scan_whole: [("a.txt:2", "one\r\ntwo\r\n\r\n \nthree")],
    }
    for scan, wanted in expected.items():
        found = records(path, scan)
        assert [(found.key(i), found.read_text(i)) for i in range(len(found))] == wanted


@pytest.mark.parametrize("scan", [scan_lines, scan_paragraphs, scan_whole])
def test_a_blank_file_holds_nothing(tmp_path, scan):
    path = tmp_path / "a.txt"
    path.write_text("\n  \n")
    assert len(records(path, scan)) == 0


def test_broken_records_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": 1}\n{"x": \n[1]\n{"x": "\xff"}\n')
    found = records(path)
    for index, says in ((1, "a.jsonl:2 is not valid JSON"), (2, "a.jsonl:3 must be a JSON object")):
        with pytest.raises(ValueError, match=says):
            found.read_object(index)
    with pytest.raises(ValueError, match=r"a\.jsonl:4 is not UTF-8"):
        found.read_object(3)


def test_a_file_that_shrinks_under_a_run_is_told(write_lines):
    path = write_lines("a.jsonl", [{"x": 1}, {"x": 2}])
    found = records(path)
    path.write_bytes(b'{"x": 1}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: the file was cut"):
        found.read(1)


def test_folders_and_patterns_give_files_in_one_order(write_lines, tmp_path):
    for name in ("sub/b.jsonl", "a.jsonl", "c.txt"):
        write_lines(name, [{"x": name}])
    for given in (tmp_path, tmp_path / "**" / "*.jsonl"):
        found = records(given, suffixes=(".jsonl",))
        assert [found.key(i) for i in range(len(found))] == ["a.jsonl:1", "sub/b.jsonl:1"]


def test_what_is_not_there_or_of_another_kind_is_told(write_lines, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder at .*nowhere"):
        find_files(str(tmp_path / "nowhere"), (".jsonl",))
    with pytest.raises(FileNotFoundError, match=r"no \.jsonl files"):
        find_files(str(tmp_path / "*.jsonl"), (".jsonl",))
    with pytest.raises(ValueError, match=r"no \.tar file"):
        find_files(str(write_lines("a.jsonl", [{}])), (".tar",))


def test_a_fingerprint_follows_the_records(write_lines):
    path = write_lines("a.jsonl", [{"x": 1}, {"x": 22}])
    before = records(path).fingerprint()
    assert records(path).fingerprint() == before
    write_lines("a.jsonl", [{"x": 22}, {"x": 1}])  # as many bytes, in other places
    assert records(path).fingerprint() != before


def test_what_is_no_object_of_an_array_is_named_in_its_place(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[1, {"x": [2, "y"]},\n"a, b", null,\n[3], {"x": 4}, -5.0\n]')
    found = records(path)
    assert [found.read(i) for i in range(len(found))] == [
        *(b"1", b'{"x": [2, "y"]}', b'"a, b"', b"null", b"[3]", b'{"x": 4}', b"-5.0")
    ]
    assert found.read_object(5) == {"x": 4} and found.key(5) == "a.json:3"
    with pytest.raises(ValueError, match=r"a\.json:2 must be a JSON object, got str"):
        found.read_object(2)


def test_linked_folders_are_looked_through_and_hidden_ones_are_not(write_lines, tmp_path):
    far = write_lines("far/a.jsonl", [{}]).parent
    root = write_lines("root/own/b.jsonl", [{}]).parent.parent
    (root / "linked").symlink_to(far, target_is_directory=True)
    (root / "own" / "round").symlink_to(root, target_is_directory=True)
    (root / ".ipynb_checkpoints").mkdir()
    for hidden in (root / ".ipynb_checkpoints" / "c.jsonl", root / "own" / "._b.jsonl"):
        hidden.write_text("{}\n")
    files = find_files(str(root), (".jsonl",))
    assert [files.name(i) for i in range(len(files.paths))] == ["linked/a.jsonl", "own/b.jsonl"]
