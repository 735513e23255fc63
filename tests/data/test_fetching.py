"""Reading in several processes: each draw once, in order, whatever their number."""

from __future__ import annotations

from contextlib import closing

from openjanus.data.encoding import EncodedSample
from openjanus.data.fetching import BadSample, Reader, Workers
from openjanus.data.mixture import Draw
from openjanus.data.samples import Sample, Turn


class Words:
    """Item ``n`` says ``n``; every seventh is broken, and every eleventh is no sample."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /):
        if index % 7 == 3:
            raise KeyError(index)
        if index % 11 == 5:
            return "words"
        turns = (Turn(role="assistant", text=str(index)),)
        return Sample(key=f"w:{index}", kind="text", turns=turns, form="plain")


def encode(sample: Sample, draw: Draw) -> EncodedSample:
    ids = (draw.index, len(sample.turns[0].text))
    return EncodedSample(key=sample.key, kind="text", input_ids=ids, loss_mask=(True, True))


def draws(length: int) -> list[Draw]:
    return [Draw(kind="text", source=0, index=index, epoch=0) for index in range(length)]


def test_each_draw_comes_once_in_order_and_what_is_broken_is_named():
    reader, taken = Reader({"text": [Words(23)]}, encode), []

    def endless():
        for draw in draws(1000):
            taken.append(draw.index)
            yield draw

    with closing(Workers(reader, 2)) as crew:
        for size in (1, 5, 100):
            pieces = list(crew.pieces(iter(draws(23)), size))
            assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
            found = [one for piece in pieces for one in piece]
            assert [draw for draw, _ in found] == draws(23)
            here = [one for piece in Workers(reader).pieces(draws(23), size) for one in piece]
            assert here == found
            bad = {draw.index: one for draw, one in found if isinstance(one, BadSample)}
            assert sorted(bad) == [3, 5, 10, 16, 17]
            assert bad[3] == BadSample(name="text source 0 item 3", reason="KeyError: 3")
            assert bad[5].reason == "TypeError: the source gave a str, not a Sample"
        # Draws are taken as they are needed: here those of two pieces.
        pieces = crew.pieces(endless(), 10)
        next(pieces)
        assert len(taken) == 20
        next(pieces)
        assert len(taken) == 30
