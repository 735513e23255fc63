"""This library as a contestant: the engine that ``draw`` and ``chat`` are driven by."""

from __future__ import annotations

from collections.abc import Callable

from openjanus.bench.inputs import Inputs
from openjanus.engine.engine import Engine
from openjanus.engine.options import EngineOptions
from openjanus.engine.request import ChatRequest, DrawRequest, FailedEvent, Request
from openjanus.model.doors import ImageTokenizer
from openjanus.pipeline.janus import Janus


class Ours:
    """A loaded model, and what it is given.

    Args:
        janus: The model.
        inputs: What everybody is given.
        look_ahead: Ids of a drawing that a step tries. One: what more save is the model's doing.
    """

    def __init__(self, janus: Janus, inputs: Inputs, *, look_ahead: int = 1) -> None:
        assert isinstance(janus.model.vq, ImageTokenizer)
        self._model = janus.model
        self._vq = janus.model.vq
        self._inputs = inputs
        self._options = EngineOptions(look_ahead=look_ahead)

    def draw(self, num_images: int) -> Callable[[], object]:
        """See ``Contestant``."""
        return self._steps(
            [
                DrawRequest(
                    prompt_ids=self._inputs.draw_ids,
                    uncond_ids=self._inputs.uncond_ids,
                    seed=0,
                    image_index=index,
                    guidance_scale=self._inputs.guidance_scale,
                )
                for index in range(num_images)
            ]
        )

    def write(self) -> Callable[[], object]:
        """See ``Contestant``."""
        ids, limit = self._inputs.text_ids, self._inputs.num_words
        return self._steps([ChatRequest(input_ids=ids, max_new_tokens=limit)])

    def answer(self, *, picture: bool) -> Callable[[], object]:
        """See ``Contestant``."""
        if not picture:
            ids = self._inputs.question_ids
            return self._steps([ChatRequest(input_ids=ids, max_new_tokens=1)])
        request = ChatRequest(
            input_ids=self._inputs.image_question_ids,
            images=self._inputs.pixel_values,
            max_new_tokens=1,
        )
        return self._steps([request])

    def understand(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self._model.embed_und(self._inputs.pixel_values)

    def decode(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self._vq.decode_ids(self._inputs.image_ids)

    def _steps(self, requests: list[Request]) -> Callable[[], object]:
        """Steps of an engine that begins its requests again when they are done."""
        engine = Engine(self._model, image_pad_id=self._inputs.image_pad_id, options=self._options)

        def step() -> None:
            if not engine.has_work:
                for request in requests:
                    engine.add(request)
            for event in engine.step():
                if isinstance(event, FailedEvent):
                    raise event.error

        return step
