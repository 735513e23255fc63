from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from openjanus.worlds.emoji.absence import Negatives, popular_concepts
from openjanus.worlds.emoji.captions import things_of
from openjanus.worlds.emoji.cells import is_held_out, pair_cell
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.questions import (
    PRACTICE_KINDS,
    QUESTION_KINDS,
    PracticeKind,
    Question,
    QuestionKind,
    ask,
    describe,
    exam,
)
from openjanus.worlds.emoji.sampling import Split, sample_scene, touches_held_out
from openjanus.worlds.emoji.scenes import RELATIONS, TAGS, Scene, SceneObject, relations
from openjanus.worlds.emoji.sprites import Sprites

NOUNS = {c.name: c.name for c in CONCEPTS.values()} | {c.plural: c.name for c in CONCEPTS.values()}
NAMED = re.compile(rf"\b({'|'.join(sorted(NOUNS, key=len, reverse=True))})\b")


def concepts_in(text: str) -> list[str]:
    return [NOUNS[word] for word in NAMED.findall(text)]


def true_answers(scene: Scene, question: Question) -> set[str]:
    """What is right, worked out from the words of the question."""
    shown = {things.concept: things for things in things_of(scene)}
    named = concepts_in(question.text)
    match question.kind:
        case "existence":
            return {"yes" if named[0] in shown else "no"}
        case "counting":
            return {NUMBER_WORDS[shown[named[0]].count]}
        case "colour":
            return {str(shown[named[0]].colour)}
        case "naming":
            return set(shown)
        case "total":
            return {NUMBER_WORDS[len(scene.objects)]}
        case "by_colour":
            colour = next(word for word in re.findall(r"\w+", question.text) if word in COLOURS)
            return {x.concept for x in scene.objects if x.colour == colour}
        case "relation" if len(named) == 2:
            boxes = {x.concept: x.box for x in scene.objects}
            held = relations(boxes[named[0]], boxes[named[1]])
            return {relation.removesuffix(" of") for relation in held}
        case "relation":
            asked = next(relation for relation in RELATIONS if f" {relation} the " in question.text)
            anchor = next(x for x in scene.objects if x.concept == named[0])
            return {
                x.concept
                for x in scene.objects
                if x is not anchor and asked in relations(x.box, anchor.box)
            }
    raise AssertionError(question.kind)


@pytest.mark.parametrize("kind", [*QUESTION_KINDS, *PRACTICE_KINDS])
def test_each_answer_is_the_one_true_answer(
    kind: QuestionKind | PracticeKind, sprites: Sprites
) -> None:
    rng = np.random.default_rng(0)
    asked = 0
    for i in range(1500):
        scene = sample_scene(rng, TAGS[i % len(TAGS)], sprites)
        question = ask(scene, rng, kind)
        if question is not None:
            assert question.kind == kind
            assert true_answers(scene, question) == {question.answer}, question
            asked += 1
    assert asked > 200


@pytest.mark.parametrize("kind", QUESTION_KINDS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_exams_are_true_repeatable_and_of_their_split(
    kind: QuestionKind, split: Split, sprites: Sprites
) -> None:
    questions = exam(kind, 60, 5, sprites, split=split)
    assert questions == exam(kind, 60, 5, sprites, split=split)
    assert questions[:30] == exam(kind, 30, 5, sprites, split=split)
    assert questions != exam(kind, 60, 6, sprites, split=split)
    for scene, question in questions:
        assert true_answers(scene, question) == {question.answer}, question
        assert touches_held_out(scene) == (split == "held_out")


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("existence", {"yes", "no"}),
        ("counting", {"one", "two", "three", "four"}),
        ("colour", set(COLOURS)),
    ],
)
def test_exam_answers_are_equally_frequent(
    kind: QuestionKind, answers: set[str], split: Split, sprites: Sprites
) -> None:
    counts = Counter(question.answer for _, question in exam(kind, 80, 1, sprites, split=split))
    assert set(counts) == answers
    assert len(set(counts.values())) == 1


def test_relation_exams_have_both_forms_and_uniform_answers(sprites: Sprites) -> None:
    counts = Counter(question.answer for _, question in exam("relation", 264, 1, sprites))
    words = {"left", "right", "above", "below"}
    assert {counts[word] for word in words} == {33}
    assert {counts[name] for name in CONCEPTS} == {2}


def test_naming_exams_ask_for_every_concept_that_has_a_held_out_look(sprites: Sprites) -> None:
    held_out = Counter(question.answer for _, question in exam("naming", 120, 1, sprites))
    assert len(held_out) >= 55
    assert max(held_out.values()) - min(held_out.values()) <= 1
    seen = Counter(q.answer for _, q in exam("naming", 66, 1, sprites, split="train"))
    assert set(seen.values()) == {1}


def test_each_sort_of_negatives_has_scenes_of_its_own(sprites: Sprites) -> None:
    random = exam("existence", 40, 3, sprites, negatives="random")
    adversarial = exam("existence", 40, 3, sprites, negatives="adversarial")
    assert not {scene for scene, _ in random} & {scene for scene, _ in adversarial}


def test_an_exam_has_no_negative_length(sprites: Sprites) -> None:
    assert exam("colour", 0, 0, sprites) == []
    with pytest.raises(ValueError, match="at least 0 questions, got -1"):
        exam("colour", -1, 0, sprites)


def absent_asked(negatives: Negatives, sprites: Sprites) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng(3)
    found = []
    for i in range(1500):
        scene = sample_scene(rng, TAGS[i % len(TAGS)], sprites)
        question = ask(scene, rng, "existence", negatives=negatives)
        if question is not None and question.answer == "no":
            found.append((scene, concepts_in(question.text)[0]))
    return found


def test_random_negatives_are_any_concept(sprites: Sprites) -> None:
    absent = absent_asked("random", sprites)
    assert 650 < len(absent) < 850
    assert {name for _, name in absent} == set(CONCEPTS)


def test_popular_negatives_are_the_popular_ones(sprites: Sprites) -> None:
    assert {name for _, name in absent_asked("popular", sprites)} == set(popular_concepts())


def test_adversarial_negatives_are_of_a_group_that_is_there(sprites: Sprites) -> None:
    for scene, name in absent_asked("adversarial", sprites):
        assert CONCEPTS[name].group in {CONCEPTS[x.concept].group for x in scene.objects}


def test_training_never_denies_a_held_out_pair(sprites: Sprites) -> None:
    for scene, name in absent_asked("random", sprites):
        assert not any(is_held_out(pair_cell(name, x.concept)) for x in scene.objects)


def test_popular_concepts_are_indeed_more_frequent_in_training(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for i in range(14_000):
        scene = sample_scene(rng, TAGS[i % len(TAGS)], sprites)
        counts.update({x.concept for x in scene.objects})
    popular = np.mean([counts[name] for name in popular_concepts()])
    assert popular > 1.03 * np.mean([counts[name] for name in CONCEPTS])


@pytest.mark.parametrize(
    ("concept", "hidden"),
    [("surfboard", "person"), ("snowboard", "person"), ("bowl", "spoon"), ("teddy bear", "bear")],
)
def test_nobody_is_asked_about_what_a_picture_shows_besides(concept: str, hidden: str) -> None:
    thing = SceneObject(concept=concept, vendor="first", colour=None, box=(0.1, 0.1, 0.6, 0.6))
    scene = Scene(objects=(thing,), background=(255, 255, 255), tag="single_object")
    rng = np.random.default_rng(0)
    questions = [ask(scene, rng, "existence", unseen_pairs=True) for _ in range(3000)]
    named = {concepts_in(question.text)[0] for question in questions if question is not None}
    assert named == set(CONCEPTS) - {hidden}


def test_no_question_where_there_is_no_answer(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    single = sample_scene(rng, "single_object", sprites)
    pair = sample_scene(rng, "two_object", sprites)
    assert ask(single, rng, "colour") is None
    assert ask(single, rng, "relation") is None
    assert ask(pair, rng, "naming") is None


def test_existence_and_relation_forms_are_balanced(sprites: Sprites) -> None:
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, "position", sprites) for _ in range(2000)]
    yes = [ask(scene, rng, "existence") for scene in scenes]
    share = np.mean([question is not None and question.answer == "yes" for question in yes])
    assert 0.46 < share < 0.54
    where = [ask(scene, rng, "relation") for scene in scenes]
    words = {"left", "right", "above", "below"}
    share = np.mean([question is not None and question.answer in words for question in where])
    assert 0.46 < share < 0.54


def test_grammar_follows_number() -> None:
    def texts(concept: str, count: int, kind: QuestionKind) -> set[str]:
        things = tuple(
            SceneObject(concept=concept, vendor="first", colour="red", box=(i / 4, 0, i / 4, 0.2))
            for i in range(count)
        )
        scene = Scene(objects=things, background=(255, 255, 255), tag="free")
        rng = np.random.default_rng(0)
        asked = [ask(scene, rng, kind) for _ in range(60)]
        return {question.text for question in asked if question is not None}

    assert "What colour is the car?" in texts("car", 1, "colour")
    assert "What colour are the cars?" in texts("car", 2, "colour")
    assert "Which colour are the scissors?" in texts("scissors", 1, "colour")
    assert "How many pairs of skis are there?" in texts("skis", 1, "counting")
    assert "What are these?" in texts("car", 2, "naming")
    assert "What is this?" in texts("car", 1, "naming")


def test_describing_answers_with_a_caption(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, "counting", sprites)
    question = describe(scene, rng)
    assert question.kind == "describe"
    assert concepts_in(question.answer)[0] == scene.objects[0].concept
