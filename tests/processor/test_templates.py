"""Every blank and line break of the two templates."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from PIL import Image

from openjanus.config import JanusConfig, ProcessorConfig, TemplateName
from openjanus.processor.chat import IMAGE_MARK, Role, Turn, render, render_with_spans
from openjanus.processor.prompt import Processor
from openjanus.processor.templates import TEMPLATES, with_template
from openjanus.processor.text import byte_tokenizer

DEEPSEEK = ProcessorConfig(eos_token="<end>")
PAPER = with_template(DEEPSEEK, "paper")
CONFIGS = {"deepseek": DEEPSEEK, "paper": PAPER}
RED = Image.new("RGB", (4, 4), "red")


def turns(*texts: str) -> list[Turn]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return [Turn(role=roles[index % 2], text=text) for index, text in enumerate(texts)]


ONE = turns("Hi", "")
ANSWERED = turns(" Hi ", " Ho\n")
SEVERAL = turns("Hi", "Ho", "More?\nPlease", "No.")
SEEN = turns(f"{IMAGE_MARK}\nWhat?", "A cat.", f"And {IMAGE_MARK}", "")


@pytest.mark.parametrize(
    ("said", "system", "deepseek", "paper"),
    [
        (ONE, "", "<|User|>: Hi\n\n<|Assistant|>:", "User:Hi \n Assistant:"),
        (ANSWERED, "", "<|User|>: Hi\n\n<|Assistant|>: Ho<end>", "User:Hi \n Assistant: Ho<end>"),
        (
            SEVERAL,
            "",
            (
                "<|User|>: Hi\n\n<|Assistant|>: Ho<end>"
                "<|User|>: More?\nPlease\n\n<|Assistant|>: No.<end>"
            ),
            "User:Hi \n Assistant: Ho<end>User:More?\nPlease \n Assistant: No.<end>",
        ),
        (
            ONE,
            " Be kind. ",
            "Be kind.\n\n<|User|>: Hi\n\n<|Assistant|>:",
            "Be kind.\n\nUser:Hi \n Assistant:",
        ),
        (
            SEEN,
            "",
            (
                "<|User|>: <image_placeholder>\nWhat?\n\n<|Assistant|>: A cat.<end>"
                "<|User|>: And <image_placeholder>\n\n<|Assistant|>:"
            ),
            (
                "User:<image_placeholder>\nWhat? \n Assistant: A cat.<end>"
                "User:And <image_placeholder> \n Assistant:"
            ),
        ),
    ],
)
def test_a_dialogue_to_the_letter(said: list[Turn], system: str, deepseek: str, paper: str) -> None:
    assert render(said, config=DEEPSEEK, system=system) == deepseek
    assert render(said, config=PAPER, system=system) == paper


def test_the_papers_own_line() -> None:
    """What the paper prints, with its two places filled."""
    printed = "User:<Input Message> \n Assistant: <Response>"
    said = turns("<Input Message>", "<Response>")
    assert render(said, config=PAPER, system="") == f"{printed}<end>"
    assert render([*said, *said], config=PAPER, system="") == f"{printed}<end>" * 2


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_spans_are_the_answers_and_their_ends_alone(config: ProcessorConfig) -> None:
    text, spans = render_with_spans(SEVERAL, config=config, system="Be kind.")
    assert [text[a:b] for a, b in spans] == [" Ho<end>", " No.<end>"]
    drawn = turns(f"{IMAGE_MARK} Another", f"Here: {IMAGE_MARK}\nDone.", "More", f"{IMAGE_MARK}")
    text, spans = render_with_spans(drawn, config=config, system="", answers_draw=True)
    assert [text[a:b] for a, b in spans] == [
        " Here: <image_placeholder>\nDone.<end>",
        " <image_placeholder><end>",
    ]
    with pytest.raises(ValueError, match=r"turn 1 \(assistant\) holds a picture"):
        render(drawn, config=config, system="")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("deepseek", "<|User|>: a cat\n\n<|Assistant|>:"), ("paper", "User:a cat \n Assistant:")],
)
def test_drawing_prompts_with_and_without_their_words(
    tiny_config: JanusConfig, name: TemplateName, expected: str
) -> None:
    own = with_template(tiny_config.processor, name)
    processor = Processor(dataclasses.replace(tiny_config, processor=own), byte_tokenizer(own))
    t = processor.tokenizer
    prompt = processor.gen_prompt(" a cat ")
    assert prompt == (t.bos_id, *t.encode(expected), t.boi_id)
    assert t.decode(prompt[1:-1], skip_special=False) == expected
    pads = (t.pad_id,) * (len(prompt) - 2)
    assert processor.drop_condition(prompt) == (t.bos_id, *pads, t.boi_id)
    assert processor.uncond_prompt(len(prompt)) == processor.drop_condition(prompt)


def test_a_question_about_a_picture_in_the_papers_words(tiny_config: JanusConfig) -> None:
    own = with_template(tiny_config.processor, "paper")
    processor = Processor(dataclasses.replace(tiny_config, processor=own), byte_tokenizer(own))
    t, slots = processor.tokenizer, tiny_config.num_und_image_tokens
    picture = (t.boi_id, *[t.image_pad_id] * slots, t.eoi_id)
    question = [Turn(role="user", text=f"{IMAGE_MARK}\nHi")]
    expected = (t.bos_id, *t.encode("User:"), *picture, *t.encode("\nHi \n Assistant:"))
    assert processor.und_prompt(question, [RED]).input_ids == expected
    ids, mask = processor.training_dialogue([*question, Turn(role="assistant", text="Ho")])
    answer = (*t.encode(" Ho"), t.eos_id)
    assert tuple(ids) == expected + answer
    assert mask == [False] * len(expected) + [True] * len(answer)


def test_every_name_has_a_template() -> None:
    assert set(TEMPLATES) == set(get_args(TemplateName))
    with pytest.raises(ValueError, match="unknown template 'papre'; did you mean 'paper'"):
        ProcessorConfig(template="papre")  # pyright: ignore[reportArgumentType]


def test_a_change_of_template_brings_its_roles_and_keeps_the_rest() -> None:
    assert with_template(DEEPSEEK, "deepseek") is DEEPSEEK
    roles = {"user_role": "User", "assistant_role": "Assistant"}
    assert dataclasses.replace(DEEPSEEK, template="paper", **roles) == PAPER
    assert with_template(PAPER, "deepseek") == dataclasses.replace(PAPER, template="deepseek")
    tokens = ("<|User|>", "<|Assistant|>")
    assert with_template(PAPER, "deepseek", role_tokens=tokens) == DEEPSEEK
    with pytest.raises(ValueError, match=r"'paper' has the roles 'User' and 'Assistant', got '<\|"):
        dataclasses.replace(DEEPSEEK, template="paper")
