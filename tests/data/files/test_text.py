"""Text alone."""

from __future__ import annotations

import pytest

from openjanus.data.files.text import TextFiles, TextLines


def test_text_by_paragraph_line_and_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Ein Häus.\r\nIt stands.\r\n\r\nAnother.\r\n".encode())
    expected = {
        "paragraph": ["Ein Häus.\nIt stands.", "Another."],
        "line": ["Ein Häus.", "It stands.", "Another."],
        "file": ["Ein Häus.\nIt stands.\n\nAnother."],
    }
    for unit, words in expected.items():
        source = TextFiles(path=str(path), unit=unit)  # pyright: ignore[reportArgumentType]
        samples = [source[i] for i in range(len(source))]
        assert [sample.turns[0].text for sample in samples] == words
        assert {(sample.kind, sample.form) for sample in samples} == {("text", "plain")}
    assert TextFiles(path=str(path))[1].key == "a.txt:4"


def test_an_unknown_unit_is_told(tmp_path):
    with pytest.raises(ValueError, match="unit must be one of"):
        TextFiles(path=str(tmp_path), unit="word")  # pyright: ignore[reportArgumentType]


def test_texts_of_a_jsonl(write_lines):
    path = str(write_lines("a.jsonl", [{"body": "one\ntwo"}, {"body": 3}, {"text": "x"}]))
    source = TextLines(path=path, text_key="body")
    assert source[0].turns[0].text == "one\ntwo"
    with pytest.raises(ValueError, match=r"^a\.jsonl:2: 'body' must be a text, got int"):
        source[1]
    with pytest.raises(ValueError, match=r"^a\.jsonl:3: no 'body' in it"):
        source[2]
