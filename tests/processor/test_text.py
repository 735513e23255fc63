"""The text tokenizer: ids by name, round trips, and special tokens."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models

from openjanus.config import ProcessorConfig
from openjanus.processor.text import (
    TextTokenizer,
    byte_tokenizer,
    special_tokens,
    train_tokenizer,
)

CONFIG = ProcessorConfig()
TEXTS = ["a photo of a cat", "a photo of two dogs", "the cat is left of the dog"] * 5
STRANGE = ["", " ", "\n\n", "a  b", "naïve café", "猫と犬", "🐈‍⬛ 1234", "\x00\x7f", "tab\tend "]


def trained(vocab_size: int = 320) -> TextTokenizer:
    return train_tokenizer(TEXTS, vocab_size, CONFIG)


@pytest.fixture(scope="module", params=["byte", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return byte_tokenizer(CONFIG) if request.param == "byte" else trained()


def specials(tokenizer: TextTokenizer) -> list[int]:
    return [
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.boi_id,
        tokenizer.eoi_id,
        tokenizer.image_pad_id,
    ]


def test_special_ids_are_those_of_their_names(tokenizer: TextTokenizer) -> None:
    names = special_tokens(CONFIG)
    assert specials(tokenizer) == [tokenizer.encode(name)[0] for name in names[:6]]
    assert all(len(tokenizer.encode(name)) == 1 for name in names), "each is one id"
    assert len(set(specials(tokenizer))) == 6
    assert all(tokenizer.is_special(i) for i in specials(tokenizer))
    assert not any(tokenizer.is_special(i) for i in tokenizer.encode("a cat"))


def test_ids_differ_between_checkpoints() -> None:
    """The same names, other ids: nothing may rely on numbers."""
    vocabulary = [*special_tokens(CONFIG), "cat"]
    found = []
    for order in (vocabulary, vocabulary[::-1]):
        vocab = {token: index for index, token in enumerate(order)}
        raw = Tokenizer(models.WordLevel(vocab, unk_token="cat"))
        raw.add_special_tokens([AddedToken(t, special=True) for t in special_tokens(CONFIG)])
        found.append(specials(TextTokenizer(raw, CONFIG)))
    assert found[0] == [8 - i for i in found[1]] and found[0] != found[1]


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_survives(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_their_own_ids() -> None:
    tokenizer = byte_tokenizer(CONFIG)
    assert tokenizer.encode("Aé") == list("Aé".encode())
    assert 256 < tokenizer.vocab_size <= 384


def test_encode_adds_nothing_and_decode_may_keep_specials() -> None:
    tokenizer = byte_tokenizer(CONFIG)
    ids = [tokenizer.bos_id, *tokenizer.encode("cat"), tokenizer.eos_id]
    assert tokenizer.encode("cat") == ids[1:-1]
    assert tokenizer.decode(ids) == "cat"
    kept = tokenizer.decode(ids, skip_special=False)
    assert kept == f"{CONFIG.bos_token}cat{CONFIG.eos_token}"


def test_long_texts_have_the_ids_of_their_parts_and_never_too_few(tokenizer: TextTokenizer) -> None:
    text = "a photo of a cat\n" * 1000
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode_with_offsets(text)[0]
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text[:1700]) * 10
    assert len(text) <= len(ids) * tokenizer.longest_token


def test_bytes_of_ids_are_those_of_the_text(tokenizer: TextTokenizer) -> None:
    text = "na\u00efve \u732b\U0001f431\n" + CONFIG.bos_token
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode(text))) == text.encode()


def test_ids_outside_the_vocabulary_stand_for_nothing() -> None:
    tokenizer = byte_tokenizer(CONFIG)
    assert tokenizer.decode([*tokenizer.encode("cat"), tokenizer.vocab_size + 50]) == "cat"


def test_half_a_character_is_a_replacement() -> None:
    tokenizer = byte_tokenizer(CONFIG)
    assert tokenizer.decode(tokenizer.encode("猫")[:2]) == "\ufffd"


def test_offsets_name_characters(tokenizer: TextTokenizer) -> None:
    text = f"été: a cat{CONFIG.eos_token} dog"
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert text[slice(*offsets[ids.index(tokenizer.eos_id)])] == CONFIG.eos_token
    assert offsets[0][0] == 0 and offsets[-1][1] == len(text)
    assert all(a <= b for (_, a), (_, b) in pairwise(offsets))


def test_training_learns_words_and_is_deterministic() -> None:
    first, again = trained(), trained()
    assert first.to_json() == again.to_json()
    assert len(first.encode(" photo")) == 1 < len(byte_tokenizer(CONFIG).encode(" photo"))
    assert first.vocab_size <= 320


def test_a_vocabulary_must_hold_all_bytes() -> None:
    with pytest.raises(ValueError, match=r"vocab_size must be >= 264 .*, got 263"):
        trained(263)


def test_plain_role_words_are_no_tokens() -> None:
    config = ProcessorConfig(user_role="User", assistant_role="Assistant")
    assert "User" not in special_tokens(config)
    tokenizer = byte_tokenizer(config)
    assert tokenizer.encode("Username") == list(b"Username")


def test_files_round_trip(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save(tmp_path / "tokenizer.json")
    read = TextTokenizer.from_file(tmp_path / "tokenizer.json", CONFIG)
    assert read.to_json() == tokenizer.to_json() and specials(read) == specials(tokenizer)
    text = f"a cat{CONFIG.eos_token} 猫"
    assert read.encode(text) == tokenizer.encode(text)


def test_a_missing_token_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_tokenizer(CONFIG).save(path)
    config = dataclasses.replace(CONFIG, boi_token="<boi>")
    with pytest.raises(KeyError, match=r"tokenizer\.json has no token '<boi>'"):
        TextTokenizer.from_file(path, config)


def test_fullwidth_bars_are_not_ascii(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_tokenizer(CONFIG).save(path)
    with pytest.raises(KeyError, match="has no token '<|end_of_sentence|>'".replace("|", r"\|")):
        TextTokenizer.from_file(path, dataclasses.replace(CONFIG, eos_token="<|end_of_sentence|>"))


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json", CONFIG)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        TextTokenizer.from_file(tmp_path / "tokenizer.json", CONFIG)


def test_an_added_letter_comes_back_as_itself() -> None:
    """DeepSeek's vocabulary has such letters; to a byte-level decoder each looks like a byte."""
    raw = Tokenizer.from_str(byte_tokenizer(ProcessorConfig()).to_json())
    raw.add_tokens([AddedToken("ö", normalized=False, special=False)])
    tokenizer = TextTokenizer(raw, ProcessorConfig())
    ids = tokenizer.encode("schön, 猫")
    assert len(ids) == len("sch") + 1 + len("n, ") + 3
    assert tokenizer.decode(ids) == "schön, 猫"
    assert raw.decode(ids) != "schön, 猫"  # else nobody would have to care


def test_merges_stay_within_one_chinese_character_where_asked(tmp_path: Path) -> None:
    texts = ["图里有三只猫", "图里有两只狗 a photo of a cat"] * 30
    whole, split = (train_tokenizer(texts, 400, CONFIG, split_han=on) for on in (False, True))
    split.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json", CONFIG)
    assert len(whole.encode("图里有三只猫")) < 6 == len(split.encode("图里有三只猫"))
    assert len(split.encode("三只猫")) == len(again.encode("三只猫")) == 3
    assert again.encode("图里有两只猫") == [i for c in "图里有两只猫" for i in again.encode(c)]
    for text in [*texts[:2], *STRANGE]:
        assert again.decode(again.encode(text)) == text
