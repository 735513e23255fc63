"""Unfinished pictures: fresh rows of ids decoded as a band and put below those shown before.

Where a small decoder lies beside the model, it draws them, roughly and for next to nothing. Else: a
decoder normalises over all that it is given and attends to all of it, so a band's pixels are near
the finished picture's, not theirs. All the bands of a picture together have no more rows than the
picture itself: up to ``MOST_STATES`` of its states cost one decoding at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from openjanus.model.doors import ImageTokenizer, RowTokenizer
from openjanus.model.previewer import Previewer

MOST_STATES = 3
ROWS_A_STATE = 8
"""Of a picture, for each state that is shown unless a number is asked for."""

MANY_ABOVE, MANY_AROUND = 3, 4
"""Rows above each state, and above and below it, where there are more than ``MOST_STATES``: single
rows are too little to normalise over, and their seams would stay seen."""
EARLY = 0.4
"""How much sooner a state is shown than evenly, as a share of the time between two."""

_GREY = (127, 127, 127)


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Rows of ids that are decoded together for one unfinished state."""

    start: int
    """The first fresh row."""
    end: int
    """The first row that is not known yet."""
    above: int
    """Rows shown before that are decoded once more, so that the fresh ones follow on from them."""
    below: int
    """How often the last row stands in for those to come: a decoder takes an end for a border."""

    @property
    def num_rows(self) -> int:
        """What is decoded for it."""
        return self.above + self.end - self.start + self.below

    @property
    def shown_from(self) -> int:
        """The first row whose pixels are replaced: the seam is drawn anew where rows allow it."""
        return self.start - self.above // 2


def default_states(side: int, *, is_cheap: bool) -> int:
    """How many unfinished states are shown of a picture of so many rows of ids.

    Args:
        side: The rows.
        is_cheap: Whether a small decoder draws them: every row is shown then.
    """
    if is_cheap:
        return side - 1
    return min(MOST_STATES, max(1, side // ROWS_A_STATE), side - 1)


def plan_bands(side: int, states: int) -> list[Band]:
    """Share a picture's rows out among its unfinished states, evenly.

    Where there are several, all are shown a little sooner: the first of three before a quarter of
    the time has passed, prompt and decoding included. The rows that no state shows are as many as
    may be decoded twice: one below each band, the others above it. Of a single state half of them
    stand below: more hardly shows. Who asks for more states than are shown unasked gets four rows
    around each, and pays for them.

    Args:
        side: Rows of ids of a picture.
        states: Unfinished states, in [0, side).
    """
    early = EARLY if states > 1 else 0
    ends = [round(side * (state - early) / (states + 1)) for state in range(1, states + 1)]
    ends = [max(end, state) for state, end in enumerate(ends, 1)]  # at least a row each
    spare = side - ends[-1] if ends else 0
    below = spare // 2 if states == 1 else min(1, spare // max(states, 1))
    above = (spare - below * states) // max(states - 1, 1)
    if states > MOST_STATES:
        return [
            Band(start=start, end=end, above=above, below=MANY_AROUND - above)
            for start, end in zip([0, *ends], ends, strict=False)
            for above in [min(MANY_ABOVE, start)]
        ]
    return [
        Band(start=start, end=end, above=min(above, start), below=below)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


class Preview:
    """A picture on its way.

    Args:
        tokenizer: Decodes rows where it can, else whole pictures.
        side: Rows of ids of a picture.
        to_picture: (1, 3, h, w) pixel values to a picture.
        previewer: Decodes roughly, in the tokenizer's place; of a finished picture it decodes
            nothing.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        side: int,
        to_picture: Callable[[Tensor], Image.Image],
        previewer: Previewer | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._previewer = previewer
        self._side = side
        self._to_picture = to_picture
        self._shown: Image.Image | None = None

    @torch.inference_mode()
    def show(self, band: Band, image_ids: Tensor) -> Image.Image:
        """The picture with one band more; below it grey.

        Args:
            band: The next one.
            image_ids: (k,) at least all ids down to the band's end, on the tokenizer's device.
        """
        rows = image_ids[: band.end * self._side].view(band.end, self._side)
        if self._previewer is not None:
            top = first = 0  # all of it: the rows above look better once those below are known
            pixels = self._previewer(rows[None]).clamp(-1, 1)  # (1, 3, h, S)
            height = pixels.shape[2] // band.end
        elif isinstance(self._tokenizer, RowTokenizer):
            top, first = band.start - band.above, band.shown_from
            rows = torch.cat([rows[top:], rows[-1:].expand(band.below, -1)])
            pixels = self._tokenizer.decode_rows(rows[None])  # (1, 3, h, S)
            height = pixels.shape[2] // band.num_rows
        else:
            top = first = 0
            rows = torch.cat([rows, rows[-1:].expand(self._side - band.end, -1)])
            pixels = self._tokenizer.decode_ids(rows.reshape(1, -1))  # (1, 3, S, S)
            height = pixels.shape[2] // self._side
        fresh = self._to_picture(pixels[:, :, (first - top) * height : (band.end - top) * height])
        if self._shown is None:
            self._shown = Image.new("RGB", (fresh.width, height * self._side), _GREY)
        self._shown.paste(fresh, (0, first * height))
        return self._shown.copy()
