"""Where a reply of words and pictures stands: what comes next, and why it ends. No torch.

Chameleon, section 2.4: every word is inspected; after ``<begin_of_image>`` a block of N codes
follows and nothing else, then ``<end_of_image>``, which nobody has to sample, then words again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Next = Literal["word", "code", "end_of_image"]


@dataclass(kw_only=True, slots=True)
class Course:
    """The state of one composition, changed by ``take`` alone."""

    boi_id: int
    eoi_id: int
    stop_ids: tuple[int, ...]
    num_image_ids: int
    """N, codes of a picture."""
    first_code: int
    """What code 0 is called in ``ids``: the number of text ids, as in a model of one vocabulary."""
    max_words: int
    """Text ids after which it ends, those that begin pictures among them."""
    max_images: int
    room: int
    """Ids of any kind that the context leaves."""
    ids: list[int] = field(default_factory=list)
    """All of them in order."""
    num_words: int = 0
    num_images: int = 0
    """Pictures that were begun."""
    num_codes: int | None = None
    """Codes of the picture in the making; None between pictures."""

    @property
    def expects(self) -> Next:
        """What the next id is."""
        if self.num_codes is None:
            return "word"
        return "code" if self.num_codes < self.num_image_ids else "end_of_image"

    @property
    def begins_picture(self) -> bool:
        """Whether the last id was ``<begin_of_image>``, just sampled."""
        return self.num_codes == 0

    @property
    def last_is_code(self) -> bool:
        """Whether the last id is a picture's."""
        return bool(self.num_codes)

    @property
    def may_begin_picture(self) -> bool:
        """Whether another picture is allowed, and fits whole into the context."""
        needed = self.num_image_ids + 2
        return self.num_images < self.max_images and len(self.ids) + needed <= self.room

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why it has ended; None while it goes on. It never ends within a picture."""
        if self.num_codes is not None or not self.ids:
            return None
        if self.ids[-1] in self.stop_ids:
            return "stop"
        return "length" if self.num_words >= self.max_words or len(self.ids) >= self.room else None

    def take(self, sampled: int) -> None:
        """Record a word, a code, or the end of a picture: whatever was expected."""
        if self.num_codes is None:
            if sampled == self.boi_id:
                assert self.may_begin_picture
                self.num_images += 1
                self.num_codes = 0
            self.ids.append(sampled)
            self.num_words += 1
        elif self.num_codes < self.num_image_ids:
            self.ids.append(self.first_code + sampled)
            self.num_codes += 1
        else:
            assert sampled == self.eoi_id
            self.ids.append(sampled)
            self.num_codes = None
