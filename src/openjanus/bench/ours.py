"""This library as a contestant: the engine that ``draw`` and ``chat`` are driven by."""

from __future__ import annotations

from collections.abc import Callable

from openjanus.bench.inputs import Inputs
from openjanus.engine.engine import Engine
from openjanus.engine.options import Compile, EngineOptions
from openjanus.engine.request import ChatRequest, DrawRequest, Event, FailedEvent, Request
from openjanus.model.doors import ImageTokenizer
from openjanus.pipeline.janus import Janus


class Ours:
    """A loaded model, and what it is given.

    Args:
        janus: The model.
        inputs: What everybody is given.
        look_ahead: Ids of a drawing that a step tries. One: what more save is the model's doing.
        steps: Whether they are compiled, as ``EngineOptions.compile`` says it.
    """

    def __init__(
        self, janus: Janus, inputs: Inputs, *, look_ahead: int = 1, steps: Compile = "auto"
    ) -> None:
        assert isinstance(janus.model.vq, ImageTokenizer)
        self._model = janus.model
        self._vq = janus.model.vq
        self._inputs = inputs
        # No prompt is kept: the same question again would be run already.
        self._options = EngineOptions(look_ahead=look_ahead, kept_prompt_tokens=0, compile=steps)

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
            request = ChatRequest(input_ids=self._inputs.question_ids, max_new_tokens=1)
        else:
            request = ChatRequest(
                input_ids=self._inputs.image_question_ids,
                images=self._inputs.pixel_values,
                max_new_tokens=1,
            )
        engine = self._engine()

        def whole() -> None:  # as many steps as the prompt takes
            engine.add(request)
            while engine.has_work:
                _step(engine)

        return whole

    def understand(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self._model.embed_und(self._inputs.pixel_values)

    def decode(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self._vq.decode_ids(self._inputs.image_ids)

    def _engine(self) -> Engine:
        return Engine(self._model, image_pad_id=self._inputs.image_pad_id, options=self._options)

    def _steps(self, requests: list[Request]) -> Callable[[], object]:
        """Steps of an engine in which all requests decode, begun again when they are done.

        Whoever begins runs all prompts at once, which is no step to be counted.
        """
        engine = self._engine()

        def step() -> None:
            if engine.has_work:
                _step(engine)
                return
            begun = {engine.add(request) for request in requests}
            told: set[int] = set()
            while told != begun:
                before = len(told)
                told |= {event.request_id for event in _step(engine)}
                if before == len(told) == engine.num_running:  # nobody's prompt is being run
                    raise ValueError(
                        f"a batch of {len(begun)} is more than the {engine.num_running} that run "
                        "at once: give a smaller --batch"
                    )

        return step


def _step(engine: Engine) -> list[Event]:
    """A step, in which nothing may fail."""
    events = engine.step()
    for event in events:
        if isinstance(event, FailedEvent):
            raise event.error
    return events
