from __future__ import annotations

from typing import Any

import pytest

from openjanus.eval.geneval import (
    TAGS,
    Box,
    Detection,
    check_metadata,
    counted,
    judge,
    overall,
    relations,
    tag_scores,
)


def thing(
    name: str, score: float = 0.99, box: Box = (0.4, 0.4, 0.6, 0.6), colour: str | None = None
) -> Detection:
    return Detection(class_name=name, score=score, box=box, colour=colour)


def line(tag: str, *include: dict[str, Any], exclude: list[dict[str, Any]] | None = None) -> dict:
    made: dict[str, Any] = {"tag": tag, "include": list(include), "prompt": "a photo"}
    if exclude is not None:
        made["exclude"] = exclude
    return made


def count_line(name: str, count: int) -> dict[str, Any]:
    return line(
        "counting", {"class": name, "count": count}, exclude=[{"class": name, "count": count + 1}]
    )


ONE_CAT = {"class": "cat", "count": 1}
ONE_DOG = {"class": "dog", "count": 1}


def test_a_thing_that_is_there_is_found() -> None:
    assert judge([thing("cat")], line("single_object", ONE_CAT)).correct


def test_a_missing_thing_fails_and_is_named() -> None:
    verdict = judge([thing("dog")], line("single_object", ONE_CAT))
    assert not verdict.correct
    assert verdict.reasons == ("expected 1 cat, found 0",)


def test_two_things_must_both_be_there() -> None:
    both = line("two_object", ONE_CAT, ONE_DOG)
    assert judge([thing("cat"), thing("dog")], both).correct
    assert not judge([thing("cat")], both).correct


@pytest.mark.parametrize(("score", "found"), [(0.3, False), (0.3001, True)])
def test_the_threshold_is_strict(score: float, found: bool) -> None:
    assert judge([thing("cat", score)], line("single_object", ONE_CAT)).correct is found


@pytest.mark.parametrize(("score", "found"), [(0.9, False), (0.9001, True)])
def test_counting_has_a_higher_threshold(score: float, found: bool) -> None:
    assert judge([thing("cat", score)] * 2, count_line("cat", 2)).correct is found


@pytest.mark.parametrize(("present", "right"), [(1, False), (2, True), (3, False)])
def test_counting_fails_on_too_few_and_too_many(present: int, right: bool) -> None:
    assert judge([thing("cat")] * present, count_line("cat", 2)).correct is right


def test_elsewhere_more_than_asked_for_is_fine() -> None:
    assert judge([thing("cat")] * 3, line("single_object", ONE_CAT)).correct


def test_exclude_counts_beyond_what_include_takes() -> None:
    verdict = judge([thing("cat")] * 3, count_line("cat", 1))
    assert verdict.reasons == ("expected fewer than 2 cat, found 3",)


def test_colour_is_that_of_the_surest_ones() -> None:
    red = line("colors", {"class": "cat", "count": 1, "color": "red"})
    sure_red = [thing("cat", 0.5, colour="blue"), thing("cat", 0.8, colour="red")]
    assert judge(sure_red, red).correct
    sure_blue = [thing("cat", 0.8, colour="blue"), thing("cat", 0.5, colour="red")]
    assert judge(sure_blue, red).reasons == ("expected 1 red cat, found blue",)
    assert not judge([thing("cat")], red).correct


def test_every_counted_thing_needs_its_colour() -> None:
    two_red = line("colors", {"class": "cat", "count": 2, "color": "red"})
    assert judge([thing("cat", colour="red")] * 2, two_red).correct
    assert not judge([thing("cat", colour="red"), thing("cat", colour="pink")], two_red).correct


def test_colours_belong_to_their_things() -> None:
    asked = line(
        "color_attr",
        {"class": "cat", "count": 1, "color": "red"},
        {"class": "dog", "count": 1, "color": "blue"},
    )
    assert judge([thing("cat", colour="red"), thing("dog", colour="blue")], asked).correct
    swapped = judge([thing("cat", colour="blue"), thing("dog", colour="red")], asked)
    assert len(swapped.reasons) == 2


LEFT, RIGHT = (0.1, 0.4, 0.3, 0.6), (0.7, 0.4, 0.9, 0.6)


def test_position_is_of_the_later_entry_seen_from_the_earlier() -> None:
    asked = line("position", ONE_DOG, ONE_CAT | {"position": ["left of", 0]})
    assert judge([thing("cat", box=LEFT), thing("dog", box=RIGHT)], asked).correct
    mirrored = judge([thing("cat", box=RIGHT), thing("dog", box=LEFT)], asked)
    assert mirrored.reasons == ("expected cat left of dog, found it right of",)


def test_position_without_its_target_fails() -> None:
    asked = line("position", ONE_DOG, ONE_CAT | {"position": ["left of", 0]})
    assert len(judge([thing("cat")], asked).reasons) == 2


def test_position_must_hold_of_every_pair() -> None:
    asked = line(
        "position",
        {"class": "dog", "count": 1},
        {"class": "cat", "count": 2, "position": ["left of", 0]},
    )
    far_left = (0.0, 0.4, 0.1, 0.6)
    cats = [thing("cat", box=LEFT), thing("cat", box=far_left)]
    assert judge([thing("dog", box=RIGHT), *cats], asked).correct
    middle = (0.4, 0.4, 0.6, 0.6)
    assert not judge([thing("dog", box=middle), cats[0], thing("cat", box=RIGHT)], asked).correct


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.0, 4.0, 2.0, 6.0), {"left of"}),
        ((8.0, 4.0, 10.0, 6.0), {"right of"}),
        ((4.0, 0.0, 6.0, 2.0), {"above"}),
        ((4.0, 8.0, 6.0, 10.0), {"below"}),
        ((0.0, 0.0, 2.0, 2.0), {"left of", "above"}),
        ((4.0, 4.0, 6.0, 6.0), set()),
        ((4.3, 4.0, 6.3, 6.0), set()),  # within a tenth of both widths
        # Offset (1.5, 0.6), reduced to (1.1, 0.2), length 1.62: 0.68 and 0.12.
        ((5.5, 4.6, 7.5, 6.6), {"right of"}),
        # Offset (0.6, 0.6), reduced to (0.2, 0.2), length 0.85: 0.24 is nowhere.
        ((4.6, 4.6, 6.6, 6.6), set()),
    ],
)
def test_relations(box: Box, expected: set[str]) -> None:
    assert relations(box, (4.0, 4.0, 6.0, 6.0)) == expected


def test_the_length_is_that_of_the_offset_before_reduction() -> None:
    # Offset (1, 0) less 0.1 * (2 + 4) is 0.4: of the whole offset 0.4, of the reduced one 1.
    assert relations((4.0, 4.0, 6.0, 6.0), (2.0, 4.0, 6.0, 6.0)) == set()


def test_at_most_sixteen_of_a_class_are_kept_the_surest_first() -> None:
    found = counted([thing("cat", 0.4 + i / 100) for i in range(20)], "single_object")["cat"]
    assert len(found) == 16
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    assert found[0].score == pytest.approx(0.59)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line("shapes", ONE_CAT), "tag must be one of"),
        (line("colors", ONE_CAT | {"color": "teal"}), "color must be one of"),
        (line("position", ONE_CAT | {"position": ["left of", 0]}), "an earlier entry"),
        (line("position", ONE_DOG, ONE_CAT | {"position": ["near", 0]}), "position must be"),
        (line("counting", {"class": "cat", "count": 0}), "count must be at least 1"),
        (line("counting", {"class": "cat"}), "mend the line"),
        (line("counting", ONE_CAT | {"colour": "red"}), "mend the line"),
        (line("counting", ONE_CAT, exclude=[ONE_CAT | {"color": "red"}]), "mend the line"),
        ({"include": [ONE_CAT]}, "mend the line"),
        ([ONE_CAT], "GenEval metadata are mappings"),
        ({"tag": "counting", "include": "cat"}, "include must be a list"),
        ({"tag": "counting", "include": None}, "include must be a list"),
        ({"tag": "counting", "include": ["cat"]}, "GenEval metadata are mappings"),
        (line("counting", {"class": "cat", "count": "2"}), "count must be at least 1, a whole"),
        (line("position", ONE_DOG, ONE_CAT | {"position": "left of"}), "position must be"),
        (line("position", ONE_DOG, ONE_CAT | {"position": ["left of", "0"]}), "position must be"),
    ],
)
def test_metadata_that_break_the_format_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_metadata(bad)


def test_overall_is_the_plain_mean_of_the_tags() -> None:
    scores = tag_scores({"single_object": [True] * 9 + [False], "counting": [False, True]})
    assert scores == {"single_object": 0.9, "counting": 0.5}
    assert overall(scores) == pytest.approx(0.7)


def test_a_tag_without_pictures_has_no_score() -> None:
    with pytest.raises(ValueError, match="counting has none"):
        tag_scores({"counting": []})
    with pytest.raises(ValueError, match="got none"):
        overall({})


def test_there_are_six_tags() -> None:
    assert len(set(TAGS)) == 6
