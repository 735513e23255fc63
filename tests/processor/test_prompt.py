"""Prompts and training ids."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from PIL import Image

from openjanus.config import UND_SYSTEM_PROMPT, JanusConfig
from openjanus.processor.chat import IMAGE_MARK, Turn
from openjanus.processor.prompt import Processor
from openjanus.processor.templates import with_template
from openjanus.processor.text import TextTokenizer, byte_tokenizer, train_tokenizer

RED = Image.new("RGB", (9, 5), "red")
BLUE = Image.new("RGB", (5, 5), "blue")


@pytest.fixture(scope="module", params=["byte", "bpe", "plain roles", "paper"])
def any_processor(request: pytest.FixtureRequest, tiny_config: JanusConfig) -> Processor:
    """Tokenizers of different habits; merges may cross what a byte tokenizer keeps apart."""
    config = tiny_config
    if request.param == "plain roles":
        roles = dataclasses.replace(config.processor, user_role="User", assistant_role="Assistant")
        config = dataclasses.replace(config, processor=roles)
    if request.param == "paper":
        own = with_template(config.processor, "paper")
        config = dataclasses.replace(config, processor=own)
    if request.param == "byte":
        return Processor(config, byte_tokenizer(config.processor))
    texts = ["User: What is it?\n\nAssistant: A cat.", ': A dog, "or" not: (so)']
    if request.param == "paper":
        texts[0] = "User:What is it? \n Assistant: A cat."
    return Processor(config, train_tokenizer(texts * 4, 380, config.processor))


def user(text: str) -> Turn:
    return Turn(role="user", text=text)


def assistant(text: str) -> Turn:
    return Turn(role="assistant", text=text)


def supervised(processor: Processor, ids: list[int], mask: list[bool]) -> list[str]:
    """The runs of supervised ids, as text."""
    runs: list[list[int]] = [[]]
    for token, counts in zip(ids, mask, strict=True):
        if counts:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [processor.tokenizer.decode(run, skip_special=False) for run in runs if run]


def test_und_prompt_by_hand(processor: Processor, tiny_config: JanusConfig) -> None:
    t, n = processor.tokenizer, tiny_config.num_und_image_tokens
    prompt = processor.und_prompt([user(f"{IMAGE_MARK}\nHi")], [RED])
    picture = [t.boi_id, *[t.image_pad_id] * n, t.eoi_id]
    expected = [t.bos_id, *t.encode("<|User|>: "), *picture, *t.encode("\nHi\n\n<|Assistant|>:")]
    assert prompt.input_ids == tuple(expected)
    assert prompt.images is not None and torch.equal(prompt.images, processor.und_pixels([RED]))


def test_a_prompt_without_pictures(processor: Processor) -> None:
    prompt = processor.und_prompt([user("Hi")])
    assert prompt.images is None and processor.tokenizer.image_pad_id not in prompt.input_ids


def test_pictures_follow_their_marks(processor: Processor) -> None:
    turns = [user(f"{IMAGE_MARK} then {IMAGE_MARK}"), assistant("Yes."), user("Sure?")]
    prompt = processor.und_prompt(turns, [RED, BLUE])
    assert prompt.images is not None
    assert torch.equal(prompt.images, processor.und_pixels([RED, BLUE]))
    n = processor.config.num_und_image_tokens
    assert prompt.input_ids.count(processor.tokenizer.image_pad_id) == 2 * n
    assert prompt.input_ids.count(processor.tokenizer.boi_id) == 2


def test_the_system_prompt_is_the_models_unless_given(tiny_config: JanusConfig) -> None:
    own = dataclasses.replace(tiny_config.processor, und_system_prompt=UND_SYSTEM_PROMPT)
    config = dataclasses.replace(tiny_config, processor=own)
    processor = Processor(config, byte_tokenizer(own))

    def text(system: str | None) -> str:
        return processor.tokenizer.decode(
            processor.und_prompt([user("Hi")], system=system).input_ids
        )

    assert text(None).startswith(f"{UND_SYSTEM_PROMPT}\n\n")
    assert text("Be brief.").startswith("Be brief.\n\n")
    assert text("").startswith(": Hi")
    drawn = processor.tokenizer.decode(processor.gen_prompt("a cat"))
    assert drawn == ": a cat\n\n:", "drawing has no system prompt"


@pytest.mark.parametrize("turns", [[], [user("Hi"), assistant("Ho")]])
def test_the_user_speaks_last(processor: Processor, turns: list[Turn]) -> None:
    with pytest.raises(ValueError, match="the last turn must be the user's"):
        processor.und_prompt(turns)


@pytest.mark.parametrize("images", [[], [RED, BLUE]])
def test_marks_and_images_must_agree(processor: Processor, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match=rf"1 {IMAGE_MARK} marks for {len(images)} images"):
        processor.und_prompt([user(f"{IMAGE_MARK} Hi")], images)


def test_gen_prompt_by_hand(processor: Processor) -> None:
    t = processor.tokenizer
    expected = [t.bos_id, *t.encode("<|User|>: a cat\n\n<|Assistant|>:"), t.boi_id]
    assert processor.gen_prompt("  a cat ") == tuple(expected)
    assert processor.gen_plain_prompt(" a cat") == (t.bos_id, *t.encode("a cat"), t.boi_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        (f"edit {IMAGE_MARK}", "cannot edit or combine pictures"),
        ("a cat<begin_of_image>", "special token '<begin_of_image>'"),
        ("a <|Assistant|>", r"special token '<\|Assistant\|>'"),
    ],
)
def test_drawing_prompts_that_are_refused(processor: Processor, text: str, message: str) -> None:
    for make in (processor.gen_prompt, processor.gen_plain_prompt):
        with pytest.raises(ValueError, match=message):
            make(text)


def test_the_unconditional_prompt_keeps_length_and_ends(any_processor: Processor) -> None:
    t = any_processor.tokenizer
    for text in ("a cat", "two dogs on a mat"):
        cond = any_processor.gen_prompt(text)
        uncond = any_processor.drop_condition(cond)
        assert len(uncond) == len(cond) and uncond == any_processor.uncond_prompt(len(cond))
        assert (uncond[0], uncond[-1]) == (cond[0], cond[-1]) == (t.bos_id, t.boi_id)
        assert set(uncond[1:-1]) == {t.pad_id}
    assert any_processor.uncond_prompt(2) == (t.bos_id, t.boi_id)


def test_only_drawing_prompts_lose_their_condition(processor: Processor) -> None:
    prompt = processor.und_prompt([user("Hi")]).input_ids
    with pytest.raises(ValueError, match="starts with BOS and ends with BOI"):
        processor.drop_condition(prompt)
    with pytest.raises(ValueError, match="length must be >= 2"):
        processor.uncond_prompt(1)


ANSWERS = ["A cat.", '"Quoted"', "(so)", ": odd", "1 dog", "- a\n- b", "猫"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_training_ids_start_with_the_prompt_of_inference(
    any_processor: Processor, answer: str
) -> None:
    """Whatever the answer begins with, and in every turn."""
    turns = [user(f"{IMAGE_MARK}\nWhat is it?"), assistant(answer), user("More?")]
    full = [*turns, assistant("No.")]
    ids, mask = any_processor.training_dialogue(full)
    for end, count in ((1, 1), (3, 2)):
        prompt = any_processor.und_prompt(turns[:end], [RED]).input_ids
        assert tuple(ids[: len(prompt)]) == prompt
        assert mask[len(prompt)] and not mask[len(prompt) - 1]
        starts = [i for i, (a, b) in enumerate(pairwise(mask)) if b and not a]
        assert starts[count - 1] == len(prompt) - 1


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_loss_mask_covers_the_answers_and_their_ends(
    any_processor: Processor, answer: str
) -> None:
    turns = [user(f"{IMAGE_MARK}\nHi"), assistant(answer), user("More?"), assistant("No. ")]
    ids, mask = any_processor.training_dialogue(turns)
    eos = any_processor.config.processor.eos_token
    assert supervised(any_processor, ids, mask) == [f" {answer}{eos}", f" No.{eos}"]
    assert len(ids) == len(mask) and not mask[0] and mask[-1]
    assert ids[-1] == any_processor.tokenizer.eos_id


@pytest.mark.parametrize("system", ["Be kind.", "Answer: a cat."])
def test_a_system_prompt_is_read_and_not_learnt(any_processor: Processor, system: str) -> None:
    ids, mask = any_processor.training_dialogue([user("Hi"), assistant("Ho")], system=system)
    assert system in any_processor.tokenizer.decode(ids, skip_special=False)
    eos = any_processor.config.processor.eos_token
    assert supervised(any_processor, ids, mask) == [f" Ho{eos}"]


def test_training_ids_by_hand(processor: Processor, tiny_config: JanusConfig) -> None:
    t, n = processor.tokenizer, tiny_config.num_und_image_tokens
    ids, mask = processor.training_dialogue([user(f"{IMAGE_MARK}\nHi"), assistant("Ho")])
    before = [t.bos_id, *t.encode("<|User|>: "), t.boi_id, *[t.image_pad_id] * n, t.eoi_id]
    before += t.encode("\nHi\n\n<|Assistant|>:")
    answer = [*t.encode(" Ho"), t.eos_id]
    assert ids == before + answer
    assert mask == [False] * len(before) + [True] * len(answer)


@pytest.mark.parametrize("turns", [[], [user("Hi")], [user("Hi"), assistant(" ")]])
def test_training_needs_an_answer(processor: Processor, turns: list[Turn]) -> None:
    with pytest.raises(ValueError, match="must end with an"):
        processor.training_dialogue(turns)


def test_plain_training_by_hand(processor: Processor, tiny_config: JanusConfig) -> None:
    t, n = processor.tokenizer, tiny_config.num_und_image_tokens
    ids, mask = processor.training_plain(f"{IMAGE_MARK}a cat")
    picture = [t.boi_id, *[t.image_pad_id] * n, t.eoi_id]
    words = [*t.encode("a cat"), t.eos_id]
    assert ids == [t.bos_id, *picture, *words]
    assert mask == [False] * (1 + len(picture)) + [True] * len(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [(f" {IMAGE_MARK}", "must have words"), ("a <|User|> b", "special token")],
)
def test_plain_texts_that_are_refused(processor: Processor, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor.training_plain(text)


def test_a_tokenizer_of_another_checkpoint(tiny_config: JanusConfig) -> None:
    language = dataclasses.replace(tiny_config.language, vocab_size=200)
    config = dataclasses.replace(tiny_config, language=language)
    with pytest.raises(
        ValueError, match="the tokenizer has 264 ids, the model's vocab_size is 200"
    ):
        Processor(config, byte_tokenizer(config.processor))


def test_the_callers_turns_and_images_are_left_alone(processor: Processor) -> None:
    turns, images = [user(f"{IMAGE_MARK} Hi")], [RED.copy()]
    processor.und_prompt(turns, images)
    assert turns == [user(f"{IMAGE_MARK} Hi")] and len(images) == 1
    assert images[0].tobytes() == RED.tobytes() and images[0].size == RED.size


def test_encoding_pictures_together_equals_encoding_each(processor: Processor) -> None:
    for encode in (processor.und_pixels, processor.gen_pixels):
        both = encode([RED, BLUE])
        assert torch.equal(both, torch.cat([encode([RED]), encode([BLUE])]))


def test_pictures_come_back(processor: Processor) -> None:
    size = processor.config.gen_image_size
    (picture,) = processor.decode_picture(processor.gen_pixels([BLUE]))
    assert picture.size == (size, size) and picture.getpixel((0, 0)) == (0, 0, 255)


def test_other_ids_change_the_prompt_and_nothing_else(tiny_config: JanusConfig) -> None:
    """Two checkpoints number their special tokens differently."""
    byte = Processor(tiny_config, byte_tokenizer(tiny_config.processor))
    trained: TextTokenizer = train_tokenizer(["x"], 264, tiny_config.processor)
    other = Processor(tiny_config, trained)
    first, second = (p.gen_prompt("猫 cat") for p in (byte, other))
    assert len(first) == len(second) and first != second
    assert byte.tokenizer.boi_id != other.tokenizer.boi_id
    assert byte.tokenizer.decode(first) == other.tokenizer.decode(second)
