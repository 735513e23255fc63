"""The model as the critic of its own drawings: of some candidates it keeps the one it believes.

Drawing and understanding are two faces of one decoder, and here one checks the other: each
candidate is shown to the model, and what it answers to questions about the prompt is its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from openjanus.pipeline.results import Candidates, Check, OnProgress
from openjanus.pipeline.scorer import Scorer

DEFAULT_QUESTION: Final = "Does the picture show {prompt}?"
"""What is asked about a candidate unless something else is said."""

PICTURE_BITS: Final = 20
"""A stream of noise is 32 bits: so many count pictures, the rest candidates."""
MAX_PICTURES: Final = 1 << PICTURE_BITS
MAX_CANDIDATES: Final = 1 << (32 - PICTURE_BITS)


JudgeQuestion = str | Sequence[str | Check] | Callable[[str], Sequence[str | Check]]
"""One question or several, ``{prompt}`` in them standing for the prompt, or a function that makes
them of a prompt. A string is a question whose right answer is yes."""


def checks_for(prompt: str, question: JudgeQuestion | None) -> tuple[Check, ...]:
    """What is asked about the pictures of a prompt.

    Raises:
        ValueError: Nothing, or something that is neither a string nor a ``Check``.
    """
    asked = DEFAULT_QUESTION if question is None else question
    if callable(asked):
        asked = asked(prompt)
    asked = [asked] if isinstance(asked, str) else list(asked)
    for one in asked:
        if not isinstance(one, str | Check):
            raise ValueError(
                f"judge_question must be made of strings or Checks, got {type(one).__name__}"
            )
    checks = [Check(question=one) if isinstance(one, str) else one for one in asked]
    if not checks:
        raise ValueError(f"judge_question asks nothing about {prompt!r}: give one question")
    return tuple(
        replace(check, question=check.question.replace("{prompt}", prompt)) for check in checks
    )


def candidate_stream(picture: int, candidate: int) -> int:
    """Stream of noise of a candidate; the first is the very picture that is drawn without others.

    Neither the number of pictures nor that of candidates is part of it.
    """
    return candidate << PICTURE_BITS | picture


def check_best_of(best_of: int, temperature: float | None) -> None:
    """Raise ``ValueError`` for what is no number of candidates, or would do nothing.

    Args:
        best_of: Candidates a picture.
        temperature: Of the drawing; None is not known yet.
    """
    if not isinstance(best_of, int) or isinstance(best_of, bool):
        raise ValueError(f"best_of must be an integer >= 1, got {best_of!r}")
    if not 1 <= best_of <= MAX_CANDIDATES:
        raise ValueError(f"best_of must be in [1, {MAX_CANDIDATES}], got {best_of}")
    if best_of > 1 and temperature == 0:
        raise ValueError(
            f"best_of {best_of} does nothing at temperature 0, where all candidates are the "
            "same: raise it or leave it out"
        )


class Critic:
    """What chooses among candidates.

    Args:
        scorer: Of the model.
        best_of: Candidates a picture, 2 at least.
        question: What is asked; None is ``DEFAULT_QUESTION``.
    """

    def __init__(self, scorer: Scorer, best_of: int, question: JudgeQuestion | None) -> None:
        self._scorer = scorer
        self._question = question
        self.best_of = best_of

    @classmethod
    def build(
        cls,
        scorer: Scorer,
        *,
        best_of: int,
        question: JudgeQuestion | None,
        temperature: float,
    ) -> Critic | None:
        """A critic, or None where there is nothing to choose from.

        Raises:
            ValueError: An option breaks its rule, or would do nothing.
        """
        check_best_of(best_of, temperature)
        if best_of == 1:
            if question is not None:
                raise ValueError(
                    "judge_question does nothing at best_of 1: raise it or leave it out"
                )
            return None
        return cls(scorer, best_of, question)

    def checks(self, prompt: str) -> tuple[Check, ...]:
        """What is asked about a prompt's pictures.

        Raises:
            ValueError: A question is empty, refused by the template, or past the context.
        """
        checks = checks_for(prompt, self._question)
        blank = Image.new("RGB", (1, 1))
        for check in checks:
            self._scorer.check(check.question, check.right + check.wrong, [blank])
        return checks

    def choose(
        self,
        images: Sequence[Image.Image],
        image_ids: Tensor,
        checks: tuple[Check, ...],
        on_progress: OnProgress | None = None,
    ) -> Candidates:
        """Score candidates and choose among them.

        Args:
            images: n * k pictures, those of one choice together.
            image_ids: (n, k, N) their codebook ids.
            checks: What is asked.
            on_progress: Told after each picture.
        """
        found = []
        for image in images:
            found.append(self.score(image, checks))
            if on_progress is not None:
                on_progress("looking", len(found), len(images))
        scores = torch.tensor(found, device="cpu")
        scores = scores.view(image_ids.shape[:2])  # (n, k)
        # Python's max takes the first of equals; torch's argmax promises none of them.
        chosen = tuple(max(range(len(row)), key=row.__getitem__) for row in scores.tolist())
        return Candidates(checks=checks, scores=scores, chosen=chosen, image_ids=image_ids)

    def score(self, image: Image.Image, checks: Sequence[Check]) -> float:
        """Log-probability that a picture passes all checks, each taken to be independent."""
        return math.fsum(self._log_probability(image, check) for check in checks)

    def _log_probability(self, image: Image.Image, check: Check) -> float:
        answers = check.right + check.wrong
        found = self._scorer.answers(check.question, answers, [image], None)
        scores = torch.stack([one.sum() for one in found]).double()
        right = scores[: len(check.right)].logsumexp(0)
        return float(right - scores.logsumexp(0) if check.wrong else right)
