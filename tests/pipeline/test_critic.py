from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openjanus.pipeline import Check, Drawing, Janus
from openjanus.pipeline.critic import (
    DEFAULT_QUESTION,
    MAX_CANDIDATES,
    MAX_PICTURES,
    Candidates,
    candidate_stream,
    checks_for,
)
from openjanus.pipeline.scorer import Scorer


def candidates_of(drawing: Drawing) -> Candidates:
    assert drawing.candidates is not None
    return drawing.candidates


def test_a_string_is_a_yes_question_about_the_prompt() -> None:
    (check,) = checks_for("a {red} car", None)
    assert check.question == DEFAULT_QUESTION.replace("{prompt}", "a {red} car")
    assert check == Check(question="Does the picture show a {red} car?")
    own = Check(question="How many?", right=("two",), wrong=())
    assert checks_for("x", ["Is {prompt} there?", own]) == (Check(question="Is x there?"), own)
    assert checks_for("a b", lambda prompt: prompt.split()) == (
        Check(question="a"),
        Check(question="b"),
    )


def test_streams_of_candidates_never_meet() -> None:
    assert [candidate_stream(i, 0) for i in (0, 1, 5)] == [0, 1, 5]
    corners = {
        candidate_stream(i, j) for i in (0, 1, MAX_PICTURES - 1) for j in (0, 1, MAX_CANDIDATES - 1)
    }
    assert len(corners) == 9 and max(corners) == 2**32 - 1


def test_the_first_candidate_is_the_picture_drawn_alone(janus: Janus) -> None:
    plain = janus.draw("a cat", n=2, seed=5)
    assert plain.candidates is None
    chosen = janus.draw("a cat", n=2, seed=5, best_of=3)
    found = candidates_of(chosen)
    assert found.image_ids.shape == (2, 3, janus.config.num_gen_image_tokens)
    assert torch.equal(found.image_ids[:, 0], plain.image_ids)
    assert len({tuple(ids.tolist()) for ids in found.image_ids.flatten(0, 1)}) == 6
    for i, j in enumerate(found.chosen):
        assert torch.equal(chosen.image_ids[i], found.image_ids[i, j])
        again = janus.decode_image(found.image_ids[i, j])
        assert np.array_equal(np.asarray(chosen.images[i]), np.asarray(again))


def test_a_candidate_depends_on_its_own_indices_alone(janus: Janus) -> None:
    many = candidates_of(janus.draw("a cat", n=2, seed=5, best_of=4))
    fewer = candidates_of(janus.draw("a cat", seed=5, best_of=2))
    assert torch.equal(many.image_ids[:1, :2], fewer.image_ids)
    assert torch.equal(many.scores[:1, :2], fewer.scores)
    batch = janus.draw_batch(["a dog", "a cat"], n=2, seed=[1, 5], best_of=4)
    assert torch.equal(candidates_of(batch[1]).image_ids, many.image_ids)
    assert torch.equal(candidates_of(batch[1]).scores, many.scores)
    assert candidates_of(batch[1]).chosen == many.chosen


def test_the_score_is_what_the_model_says_itself(janus: Janus) -> None:
    own = Check(question="What is it?", right=("a cat",), wrong=())
    drawing = janus.draw("a cat", seed=5, best_of=2, judge_question=["Is it {prompt}?", own])
    found = candidates_of(drawing)
    for j in range(2):
        image = janus.decode_image(found.image_ids[0, j])

        def chance(question: str, answer: str, image: Any = image) -> float:
            return math.exp(float(janus.score(question, answer, images=[image]).double().sum()))

        yes = sum(chance("Is it a cat?", word) for word in ("Yes", "yes"))
        no = sum(chance("Is it a cat?", word) for word in ("No", "no"))
        expected = math.log(yes / (yes + no)) + math.log(chance("What is it?", "a cat"))
        assert float(found.scores[0, j]) == pytest.approx(expected, abs=2e-4)
    assert found.chosen == (int(found.scores[0].argmax()),)


@pytest.mark.parametrize(
    ("likes", "chosen"), [([0.0, 2.0, 1.0], 1), ([1.0, 3.0, 3.0], 1), ([2.0, 2.0, 2.0], 0)]
)
def test_the_best_is_kept_and_of_equals_the_first(
    janus: Janus, monkeypatch: pytest.MonkeyPatch, likes: list[float], chosen: int
) -> None:
    told = iter(likes)

    def answers(self: Scorer, question: str, words: tuple[str, ...], *_: Any) -> list[torch.Tensor]:
        return [torch.tensor([next(told)])]

    monkeypatch.setattr(Scorer, "answers", answers)
    sure = Check(question="What?", right=("it",), wrong=())
    drawing = janus.draw("a cat", seed=5, best_of=3, judge_question=[sure])
    found = candidates_of(drawing)
    assert found.chosen == (chosen,)
    assert found.scores.tolist() == [likes]
    assert torch.equal(drawing.image_ids[0], found.image_ids[0, chosen])


def test_progress_is_told_of_ids_and_then_of_looks(janus: Janus) -> None:
    told: list[tuple[str, int, int]] = []
    plain = janus.draw("a dog", n=2, seed=3, best_of=2)
    seen = janus.draw("a dog", n=2, seed=3, best_of=2, on_progress=lambda *what: told.append(what))
    assert seen.image_ids.equal(plain.image_ids)
    ids = 4 * janus.config.num_gen_image_tokens
    assert told[:ids] == [("drawing", done, ids) for done in range(1, ids + 1)]
    assert told[ids:] == [("looking", done, 4) for done in range(1, 5)]


def test_what_was_chosen_from_is_saved(janus: Janus, tmp_path: Path) -> None:
    drawing = janus.draw("a cat", seed=5, best_of=2)
    drawing.save(tmp_path / "chosen")
    told = json.loads((tmp_path / "chosen" / "drawing.json").read_text())["candidates"]
    found = candidates_of(drawing)
    assert told["chosen"] == list(found.chosen)
    assert told["image_ids"] == found.image_ids.tolist()
    assert told["checks"][0]["question"] == "Does the picture show a cat?"
    janus.draw("a cat", seed=5).save(tmp_path / "plain")
    assert "candidates" not in json.loads((tmp_path / "plain" / "drawing.json").read_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"best_of": 0}, "best_of must be in"),
        ({"best_of": 2.0}, "best_of must be an integer >= 1, got 2.0"),
        ({"best_of": MAX_CANDIDATES + 1}, "best_of must be in"),
        ({"best_of": 2, "temperature": 0.0}, "does nothing at temperature 0"),
        ({"judge_question": "Is it?"}, "does nothing at best_of 1"),
        ({"best_of": 2, "judge_question": ()}, "asks nothing about 'a cat'"),
        ({"best_of": 2, "judge_question": [3]}, "strings or Checks, got int"),
        ({"best_of": 2, "judge_question": " "}, "empty"),
        ({"best_of": 2, "judge_question": "word " * 400}, "the context holds"),
        ({"best_of": 2, "n": MAX_PICTURES + 1}, "n must be <="),
    ],
)
def test_options_that_break_a_rule(janus: Janus, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        janus.draw("a cat", seed=5, **options)


def test_a_batch_names_the_prompt_whose_question_is_wrong(janus: Janus) -> None:
    def ask(prompt: str) -> list[str]:
        return [] if prompt == "b" else ["Is it?"]

    with pytest.raises(ValueError, match=r"prompts\[1\]: judge_question asks nothing"):
        janus.draw_batch(["a", "b"], best_of=2, judge_question=ask)


def test_a_check_needs_a_right_answer() -> None:
    with pytest.raises(ValueError, match="has none: add one"):
        Check(question="Is it?", right=())
