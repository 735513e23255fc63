from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openjanus.presets import preset
from openjanus.processor.templates import with_template
from openjanus.weights.card import Origin, read_origin, write_card


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (None, "not stated"),
        ("# No head\nlicense: mine\n", "not stated"),
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlanguage: en\nlicense: other\nlicense_name: deepseek\n---\n", "deepseek"),
    ],
)
def test_the_licence_is_what_the_card_says_at_its_head(
    text: str | None, licence: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
    (tmp_path / "LICENSE-MODEL").touch()
    origin = read_origin("./x", tmp_path)
    assert origin.licence == licence
    assert [path.name for path in origin.licence_files] == ["LICENSE-MODEL"]


@pytest.mark.parametrize(
    ("origin", "is_theirs"),
    [
        (Origin(), False),
        (Origin(source="tiny"), False),
        (Origin(source="nano", card={"license": "apache-2.0"}), False),
        (Origin(source="./Janus-Pro-1B"), True),
        (Origin(source="x/y", card={"license": "other", "license_name": "deepseek"}), True),
    ],
)
def test_a_card_says_the_released_licence_of_released_weights(
    origin: Origin, is_theirs: bool, tmp_path: Path
) -> None:
    write_card(tmp_path, preset("tiny"), layout="deepseek", origin=origin)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("DeepSeek Model License" in card) == is_theirs
    assert ("states no licence" in card) == (not origin.card)


def test_a_card_does_not_tell_where_things_lie_on_somebodys_disk(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    origin = Origin(source=str(folder))
    write_card(tmp_path, preset("tiny"), layout="openjanus", origin=origin)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "from `mine`" in card
    assert str(tmp_path) not in card


def test_a_card_names_the_template(tmp_path: Path) -> None:
    config = preset("tiny")
    paper = with_template(config.processor, "paper")
    for name, roles, processor in (
        ("deepseek", "<|User|>", config.processor),
        ("paper", "User", paper),
    ):
        told = dataclasses.replace(config, processor=processor)
        write_card(tmp_path, told, layout="openjanus", origin=Origin())
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f"- dialogues: the template `{name}`, with the roles `{roles}` and" in card
