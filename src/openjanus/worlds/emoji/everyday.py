"""The world as people speak of it: commands to draw, captions, and dialogues about one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Unpack

import numpy as np

from openjanus.data.samples import IMAGE_MARK, Sample, Turn
from openjanus.worlds.emoji.commands import command, typed, wanted
from openjanus.worlds.emoji.dialogues import dialogue
from openjanus.worlds.emoji.draws import HowMany, pick
from openjanus.worlds.emoji.indexed import WORDS, SceneSource
from openjanus.worlds.emoji.scene_options import PlacedKeywords, refuse_others
from openjanus.worlds.emoji.scenes import Scene
from openjanus.worlds.emoji.turns import asked_about_picture

TURNS_LIMIT: Final = 12

REMARKS: Final = (
    "{}",
    "{}",
    "{}.",
    "look, {}!",
    "this is {}.",
    "here you see {}.",
    "I see {}.",
    "it shows {}.",
    "just {}.",
    "my picture of {}.",
)
"""What people write beside a picture."""


class EmojiEveryday(SceneSource):
    """Samples in everyday words, without template wordings.

    | kind | form | sample |
    |---|---|---|
    | gen | chat | a short command, "draw me two cats", and the picture to draw |
    | und | chat | a dialogue about one picture, later turns of which refer to earlier ones |
    | und | plain | a picture and what somebody wrote beside it |

    Args:
        kind: What a sample teaches.
        form: "chat", or "plain" for captions.
        least_turns: Questions of one dialogue at least; fewer where a picture has no more to ask.
        most_turns: As many at most.

    Everything else is as in `SceneOptions`, without `world` and `mixed`. Scenes are those of
    `EmojiScenes` at the same seed and options.

    Raises:
        ValueError: An unknown kind or form, plain commands, or not
            1 <= least_turns <= most_turns <= 12.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        kind: Literal["und", "gen"],
        form: Literal["chat", "plain"] = "chat",
        one_ground: bool = False,
        least_turns: int = 1,
        most_turns: int = 5,
        **scenes: Unpack[PlacedKeywords],
    ) -> None:
        refuse_others(scenes, PlacedKeywords, type(self))
        if kind not in ("und", "gen") or form not in ("chat", "plain"):
            raise ValueError(
                f"kind must be und or gen and form chat or plain, got {kind!r} and {form!r}"
            )
        if (kind, form) == ("gen", "plain"):
            raise ValueError("commands are said in a chat: give form chat, or the source emoji")
        num_turns = HowMany(things="turns", least=least_turns, most=most_turns, limit=TURNS_LIMIT)
        super().__init__(folder, one_ground=one_ground, **scenes)
        self.kind: Literal["und", "gen"] = kind
        self.form: Literal["chat", "plain"] = form
        self.name = f"emoji-everyday-{kind}-{form}"
        self.num_turns = num_turns

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        picture = self.picture(index)
        is_drawn = self.kind == "gen"
        return Sample(
            key=self.key(index),
            kind=self.kind,
            turns=self.turns(index),
            images=() if is_drawn else (picture,),
            target=picture if is_drawn else None,
            form=self.form,
        )

    def turns(self, index: int) -> tuple[Turn, ...]:
        """What is said at an index."""
        scene, rng = self.scene(index), self.rng(index, WORDS)
        if self.kind == "gen":
            return (Turn(role="user", text=command(scene, rng)),)
        if self.form == "plain":
            return (Turn(role="assistant", text=f"{IMAGE_MARK}{remark(scene, rng)}"),)
        return asked_about_picture(dialogue(scene, rng, self.num_turns.draw(rng)))


def remark(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as somebody writes it beside a picture."""
    return typed(pick(rng, REMARKS).format(wanted(scene, rng)), rng)
