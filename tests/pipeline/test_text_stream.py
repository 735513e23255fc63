from __future__ import annotations

import pytest

from openjanus.pipeline.text_stream import TextStream
from openjanus.processor.text import TextTokenizer


def feed(stream: TextStream, ids: list[int]) -> list[str]:
    """Every piece, the last from ``finish``."""
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]


def test_white_space_waits_for_a_word(tokenizer: TextTokenizer) -> None:
    pieces = feed(TextStream(tokenizer), tokenizer.encode("  a b \n"))
    assert pieces == ["", "", "a", "", " b", "", "", ""]


def test_characters_come_whole(tokenizer: TextTokenizer) -> None:
    pieces = feed(TextStream(tokenizer), tokenizer.encode("é€🍎!"))
    assert "".join(pieces) == "é€🍎!"
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_comes_at_the_end(tokenizer: TextTokenizer) -> None:
    pieces = feed(TextStream(tokenizer), tokenizer.encode("a€")[:-1])
    assert pieces[:-1] == ["a", "", ""]
    assert set(pieces[-1]) == {"\ufffd"}


def test_special_tokens_are_silent(tokenizer: TextTokenizer) -> None:
    ids = [tokenizer.eoi_id, *tokenizer.encode("hi"), tokenizer.eos_id]
    assert "".join(feed(TextStream(tokenizer), ids)) == "hi"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one END two", ["END"], "one"),
        ("one EN two", ["END"], "one EN two"),
        ("one ENEND", ["END"], "one EN"),
        ("one EN", ["END"], "one EN"),
        ("abcdef", ["ef", "cd"], "ab"),
        ("aaab", ["aab"], "a"),
        ("END", ["END"], ""),
    ],
)
def test_stop_strings(tokenizer: TextTokenizer, text: str, stop: list, expected: str) -> None:
    stream = TextStream(tokenizer, stop)
    assert "".join(feed(stream, tokenizer.encode(text))) == expected
    assert stream.text == expected
    assert stream.stopped == any(one in text for one in stop)


def test_nothing_that_may_become_a_stop_string_is_shown(tokenizer: TextTokenizer) -> None:
    pieces = feed(TextStream(tokenizer, ["###"]), tokenizer.encode("a## b###c"))
    assert pieces == ["a", "", "", "##", " b", "", "", "", ""]
