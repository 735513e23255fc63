"""The machine itself: ``add`` requests, ``step`` until there is no work, ``cancel`` at any time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.engine.compose_page import ComposePage
from openjanus.engine.course import Course
from openjanus.engine.image_page import ImagePage
from openjanus.engine.memory import SHARE, free_bytes, page_bytes
from openjanus.engine.openings import Opening, Openings
from openjanus.engine.options import EngineOptions
from openjanus.engine.page import Page, Plan, TextPage
from openjanus.engine.prefill import KeptPrompts, Prefix, PrefixCache, Prompt, run_prompt, to_end
from openjanus.engine.request import (
    ComposeRequest,
    DrawRequest,
    Event,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    ImageIdEvent,
    Request,
    TokenEvent,
    TokenLogprobs,
)
from openjanus.engine.rules import Rules
from openjanus.engine.scheduler import Mode, Scheduler, Seat
from openjanus.engine.steps import Steps
from openjanus.model.attention import KVCache
from openjanus.model.janus import JanusModel


@dataclass(slots=True)
class _Job:
    request: Request
    limit: int
    """Ids after which it ends, at the latest."""
    ids: list[int]
    course: Course | None = None
    """Of a composition, whose ids these are."""


class Engine:
    """Draws and answers, many requests at once, a token or more of each a step.

    Not thread-safe: whoever has threads gives it one of its own.

    Args:
        model: On its device, in its dtype; put into evaluation mode.
        image_pad_id: The text id that stands for one feature of a picture to understand.
        options: How much runs at once.
    """

    def __init__(
        self, model: JanusModel, *, image_pad_id: int, options: EngineOptions | None = None
    ) -> None:
        self.options = EngineOptions() if options is None else options
        self._model = model.eval()
        self._image_pad_id = image_pad_id
        self._rules = Rules(model, image_pad_id)
        self._scheduler = _scheduler(model, self.options)
        self._pages: dict[int, Page] = {}
        self._steps = Steps(model, self.options)
        self._version = _weights_version(model)
        self._jobs: dict[int, _Job] = {}
        self._openings = Openings()
        self._told: list[Event] = []  # at the end of this step, or of the next one
        self._prefill_budget = self.options.prefill_budget(model)
        self._prefixes = PrefixCache(self.options.prefix_cache_size)
        self._kept = KeptPrompts(
            self.options.kept_prompt_tokens,
            chunk=self.options.prefill_chunk,
            image_pad_id=image_pad_id,
            num_image_tokens=model.config.num_und_image_tokens,
        )
        self._next_request_id = 0

    @property
    def has_work(self) -> bool:
        """Whether any request runs or waits, or something of it is yet to be told."""
        return bool(self._jobs or self._told)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._scheduler.num_waiting

    @property
    def num_running(self) -> int:
        """Requests that have a slot."""
        return self._scheduler.num_running

    @property
    def is_opening(self) -> bool:
        """Whether the prompt of somebody who has a slot is still being run."""
        return len(self._openings) > 0

    def __contains__(self, request_id: int) -> bool:
        """Whether a request runs or waits, or something of it is yet to be told."""
        return request_id in self._jobs or any(e.request_id == request_id for e in self._told)

    def add(self, request: Request) -> int:
        """Take a request.

        Returns:
            Its id, which every event of it carries.

        Raises:
            ValueError: It does not suit this model; nothing has changed.
        """
        mode, capacity, limit = self._rules.plan(request)
        self._scheduler.check(mode, capacity)
        request_id = self._next_request_id
        self._next_request_id += 1
        self._scheduler.submit(request_id, mode, capacity)
        self._jobs[request_id] = _Job(request, limit, [])
        return request_id

    def check(self, request: Request) -> None:
        """Raise what ``add`` would raise, and take nothing."""
        mode, capacity, _ = self._rules.plan(request)
        self._scheduler.check(mode, capacity)

    @torch.inference_mode()
    def cancel(self, request_id: int) -> bool:
        """Drop a request at once, without any further event; False when it is not here."""
        self._told = [event for event in self._told if event.request_id != request_id]
        if request_id not in self._jobs:
            return False
        self._drop(request_id)
        return True

    def _drop(self, request_id: int) -> None:
        del self._jobs[request_id]
        self._openings.drop(request_id)
        self._leave(request_id)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run some of the prompts of who waits, then decode everybody who sits.

        An error ends those whose work it stopped, by a ``FailedEvent``; an interrupt or a defect is
        raised besides, and the next step goes on with the others.

        Returns:
            What happened; empty when nothing is to be told, or there is no work.
        """
        self._open_next()
        seated: list[list[tuple[int, int]]] = []
        plans: list[Plan] = []
        for page_id in self._scheduler.page_ids:
            page = self._pages.get(page_id)
            if page is not None and page.seated:
                runs_idle = self._steps.runs_idle(page.num_rows)
                sitting = set(page.seated)
                everybody = self._scheduler.seated(page_id)
                here = [(slot, one) for slot, one in everybody if slot in sitting]
                with self._ending([one for _, one in here]):
                    plans.append(page.plan(runs_idle=runs_idle))
                    seated.append(here)
        pages = iter(seated)
        for batch in self._steps.batches(plans):
            of_batch = [next(pages) for _ in batch]
            with self._ending([one for page in of_batch for _, one in page]):
                found = self._steps.run(batch)
                for page, ids in zip(of_batch, found, strict=True):
                    for slot, request_id in page:
                        for sampled in ids[slot]:
                            self._told += self._take(request_id, sampled)
        events, self._told = self._told, []
        return events

    @contextmanager
    def _ending(self, request_ids: Sequence[int]) -> Iterator[None]:
        """Work of some requests: an error in it ends those of them that have not come to an end."""
        try:
            yield
        except BaseException as error:  # told to whoever waits, and raised on where it is not ours
            interrupt = RuntimeError("interrupted on its way: ask again")
            for request_id in request_ids:
                if request_id in self._jobs:
                    self._drop(request_id)
                    reason = error if isinstance(error, Exception) else interrupt
                    self._told.append(FailedEvent(request_id, reason))
            if not isinstance(error, (RuntimeError, ValueError)):  # out of memory is a RuntimeError
                raise

    def forget(self) -> None:
        """Forget what weights have made: prompts that are kept, and what was tried of them.

        The engine does so by itself where it sees that weights have changed. What writes to them
        through ``.data``, or to weights made in inference mode, is not seen: call this.
        """
        self._prefixes.clear()
        self._kept.clear()
        self._steps.forget()
        for page_id in [key for key, page in self._pages.items() if not page.seated]:
            del self._pages[page_id]  # of the weights' dtype and device

    def _open_next(self) -> None:
        """Seat requests in order and run their prompts, as many tokens as a step may have."""
        tokens = 0
        while tokens < self._prefill_budget:
            while (seat := self._scheduler.admit()) is not None:
                left = self._prompt_tokens(self._jobs[seat.request_id].request)
                self._openings.add(Opening(seat.request_id, self._open(seat), left))
            if not self._openings:
                break
            opening = self._openings.next()
            with self._ending([opening.request_id]):
                cost, first_ids = opening.advance()
                tokens += cost
                if first_ids is not None:
                    self._openings.drop(opening.request_id)
                    for first_id in first_ids:
                        self._told += self._take(opening.request_id, first_id)

    def _prompt_tokens(self, request: Request) -> int:
        """What a request's prompt takes to run, where nothing of it is kept."""
        if isinstance(request, DrawRequest):
            each = len(request.prompt_ids) + len(request.prefix_ids)
            return each * (2 if request.is_guided else 1)
        pictures = 0 if request.images is None else len(request.images)
        return len(request.input_ids) + pictures * self._model.config.num_und_image_tokens

    def _open(self, seat: Seat) -> Generator[int, None, list[int]]:
        """Prefill a request that has been seated: its prompt tokens by pieces, its first ids."""
        # Weights may be trained or replaced between two requests: what they made before is stale.
        if (version := _weights_version(self._model)) != self._version:
            self._version = version
            self.forget()
        request = self._jobs[seat.request_id].request
        if isinstance(request, DrawRequest):
            kept, uncond = request.prefix_ids, None
            cond = yield from self._draw_prefix(request.prompt_ids, kept)
            if request.is_guided:
                assert request.uncond_ids is not None
                uncond = yield from self._draw_prefix(request.uncond_ids, kept)
            page = yield from self._page_of(seat)
            assert isinstance(page, ImagePage)
            return page.seat(seat.slot, request, cond, uncond)
        prompt = Prompt.of(request.input_ids, request.images)
        begun = self._kept.longest(version, prompt)
        cache, last = yield from self._run(prompt, begun)
        self._kept.put(version, prompt, cache)
        prefix = Prefix(cache, self._model.text_logits(last))
        page = yield from self._page_of(seat)
        if isinstance(request, ComposeRequest):
            assert isinstance(page, ComposePage)
            course = self._jobs[seat.request_id].course = self._course(seat.request_id)
            return [page.seat(seat.slot, request, course, prefix)]
        assert isinstance(page, TextPage)
        return [page.seat(seat.slot, request, prefix)]

    def _run(
        self, prompt: Prompt, begun: tuple[int, KVCache | None] = (0, None)
    ) -> Generator[int, None, tuple[KVCache, Tensor]]:
        return run_prompt(
            self._model,
            prompt,
            image_pad_id=self._image_pad_id,
            chunk=self.options.prefill_chunk,
            begun=begun,
        )

    def _course(self, request_id: int) -> Course:
        """The beginning of a composition."""
        job, config = self._jobs[request_id], self._model.config
        assert isinstance(job.request, ComposeRequest)
        return Course(
            boi_id=job.request.boi_id,
            eoi_id=job.request.eoi_id,
            stop_ids=job.request.stop_ids,
            num_image_ids=config.num_gen_image_tokens,
            first_code=config.text_vocab_size,
            max_words=job.request.max_new_tokens,
            max_images=job.request.max_images,
            room=job.limit,
            ids=job.ids,
        )

    def _begin_picture(self, request_id: int) -> None:
        """Prefill what guidance leads away from, when a composition has come to a picture."""
        job, seat = self._jobs[request_id], self._scheduler.seat(request_id)
        assert isinstance(job.request, ComposeRequest) and seat is not None
        page = self._pages[seat.page_id]
        assert isinstance(page, ComposePage)
        if job.request.guidance_scale == 1:
            return page.begin_picture(seat.slot, None)
        bos_id, *others = job.request.input_ids
        pads = (job.request.pad_id,) * (len(others) + len(job.ids) - 1)  # BOI is yet to be run
        cache, last = to_end(self._run(Prompt.of((bos_id, *pads))))
        return page.begin_picture(seat.slot, Prefix(cache, last))

    def _page_of(self, seat: Seat) -> Generator[int, None, Page]:
        """The page of a seat; while others sit and there is no memory for it, a wait for some."""
        while True:
            try:
                return self._page(seat.page_id)
            except RuntimeError:
                empty = [key for key, page in self._pages.items() if not page.seated]
                if len(empty) == len(self._pages) == 0:
                    raise
            for key in empty:
                del self._pages[key]
            if not empty:
                yield self._prefill_budget  # the next step tries again

    def _page(self, page_id: int) -> Page:
        if page_id not in self._pages:
            for gone in self._pages.keys() - set(self._scheduler.page_ids):
                del self._pages[gone]
            mode, capacity = self._scheduler.page_shape(page_id)
            rows = self.options.rows_per_page
            if mode == "compose":
                page = ComposePage(self._model, capacity, rows, self._image_pad_id)
            elif mode == "image":
                page = ImagePage(self._model, capacity, rows, self.options.look_ahead)
            else:
                page = TextPage(self._model, capacity, rows)
            self._steps.prepare(page.cache)
            self._pages[page_id] = page
        return self._pages[page_id]

    def _draw_prefix(
        self, ids: tuple[int, ...], codes: tuple[int, ...]
    ) -> Generator[int, None, Prefix]:
        """A drawing prompt's prefix, with codes behind it: kept, or run."""
        key = (self._version, *ids, *(-1 - code for code in codes))
        prefix = self._prefixes.get(key)
        if prefix is None:
            cache, last = yield from self._run(Prompt.of(ids, codes=codes))
            prefix = Prefix(cache, self._model.image_logits(last))
            self._prefixes.put(key, prefix)
        return prefix

    def _take(self, request_id: int, sampled: int) -> list[Event]:
        """Record a sampled id, say so, and end the request if it was the last."""
        job = self._jobs[request_id]
        if job.course is not None:
            return self._follow(request_id, job.course)
        job.ids.append(sampled)
        events: list[Event]
        reason: FinishReason | None = None
        if isinstance(job.request, DrawRequest):
            events = [ImageIdEvent(request_id, len(job.ids) - 1, sampled)]
            if len(job.ids) == job.limit:
                reason = "complete"
        else:
            events = [TokenEvent(request_id, sampled, self._logprobs(request_id))]
            if sampled in job.request.stop_ids:
                reason = "stop"
            elif len(job.ids) == job.limit:
                reason = "length"
        return events + self._finish(request_id, reason)

    def _logprobs(self, request_id: int) -> TokenLogprobs | None:
        """Of the last id of a reply, where it asks for them."""
        seat = self._scheduler.seat(request_id)
        page = None if seat is None else self._pages[seat.page_id]
        return page.logprobs.get(seat.slot) if seat and isinstance(page, TextPage) else None

    def _follow(self, request_id: int, course: Course) -> list[Event]:
        """``_take`` of a composition: the page has recorded the id."""
        events: list[Event]
        if course.last_is_code:
            assert course.num_codes is not None
            code = course.ids[-1] - course.first_code
            events = [ImageIdEvent(request_id, course.num_codes - 1, code)]
        else:
            events = [TokenEvent(request_id, course.ids[-1])]
        if course.begins_picture:
            try:
                self._begin_picture(request_id)
            except RuntimeError as error:  # out of memory
                self._drop(request_id)
                return [*events, FailedEvent(request_id, error)]
        return events + self._finish(request_id, course.finish_reason)

    def _finish(self, request_id: int, reason: FinishReason | None) -> list[Event]:
        """End a request where there is a reason to."""
        if reason is None:
            return []
        ids = tuple(self._jobs.pop(request_id).ids)
        self._leave(request_id)
        return [FinishedEvent(request_id, ids, reason)]

    def _leave(self, request_id: int) -> None:
        seat = self._scheduler.seat(request_id)
        self._scheduler.release(request_id)
        if seat is not None and seat.page_id in self._pages:  # not where making the page failed
            self._pages[seat.page_id].leave(seat.slot)


def _scheduler(model: JanusModel, options: EngineOptions) -> Scheduler:
    """With a place for as much as memory holds."""
    rows, budget = options.rows_per_page, options.max_cache_bytes
    slots: dict[Mode, int] = {"image": rows // 2, "text": rows, "compose": rows // 2}
    is_estimate = budget is None
    if budget is None:
        free = free_bytes(model.language_model.model.embed_tokens.weight.device)
        budget = None if free is None else round(SHARE * free)

    def cost(mode: Mode, capacity: int) -> int:
        return page_bytes(model, mode, capacity, num_rows=rows, look_ahead=options.look_ahead)

    return Scheduler(slots, options.max_pages, cost=cost, budget=budget, is_estimate=is_estimate)


def _weights_version(model: JanusModel) -> int:
    """Changes when weights are written in place, and when others take their place.

    Tensors made in inference mode count no writes, nor do writes through ``.data``; those are seen
    by their place in memory alone.
    """
    return hash(
        tuple(
            # Packed weights are not written to, and lie at no address of their own.
            id(weight)
            if weight.is_mkldnn
            else (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in (*model.parameters(), *model.buffers())  # codes and scales are buffers
        )
    )
