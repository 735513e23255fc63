"""The threads, without HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from openjanus.engine.request import ChatRequest, DrawRequest, Event, FinishedEvent
from openjanus.serve.engine_thread import JobDriver
from openjanus.serve.errors import ApiError
from openjanus.serve.metrics import Metrics
from openjanus.serve.room import MAX_UNREAD, Room


def test_many_jobs_at_once_get_their_own_results(janus):
    prompts = [f"picture {i}" for i in range(6)]
    drawings = [
        janus.draw(prompt, seed=i).image_ids[0].tolist() for i, prompt in enumerate(prompts)
    ]

    async def go(room: Room) -> list[list[int]]:
        async def one(i: int) -> list[int]:
            def work(driver: JobDriver) -> Iterator[list[int]]:
                ids = janus.processor.gen_prompt(prompts[i])
                request = DrawRequest(
                    prompt_ids=ids,
                    uncond_ids=janus.processor.uncond_prompt(len(ids)),
                    seed=i,
                    guidance_scale=janus.config.drawing.guidance_scale,
                    temperature=janus.config.drawing.temperature,
                )
                events = (event for _, event in driver.run([request]))
                return (list(e.ids) for e in events if isinstance(e, FinishedEvent))

            (found,) = [ids async for ids in room.begin(work, 60).results()]
            return found

        return await asyncio.gather(*map(one, range(6)))

    with Room(janus, max_jobs=6, metrics=Metrics()) as room:
        assert asyncio.run(go(room)) == drawings


def test_nobody_waits_for_an_engine_that_has_stopped(janus):
    may_go_on = threading.Event()

    async def go(room: Room) -> None:
        def work(driver: JobDriver) -> Iterator[tuple[int, Event]]:
            may_go_on.wait(10)
            return driver.run([ChatRequest(input_ids=(1, 2), max_new_tokens=4)])

        job = room.begin(work, 60)
        await asyncio.to_thread(room.thread.stop)
        may_go_on.set()
        with pytest.raises(ApiError, match="failed on this request"):
            async for _ in job.results():
                pass

    with Room(janus, max_jobs=1, metrics=Metrics()) as room:
        asyncio.run(go(room))


def test_who_waits_for_an_engine_that_stops_is_told(janus):
    async def go(room: Room) -> None:
        request = ChatRequest(input_ids=(1, 2), max_new_tokens=200, temperature=1.0)
        results = room.begin(lambda driver: driver.run([request]), 60).results()
        await anext(results)
        await asyncio.to_thread(room.thread.stop)
        with pytest.raises(ApiError, match="failed on this request"):
            async for _ in results:
                pass

    with Room(janus, max_jobs=1, metrics=Metrics()) as room:
        step = room.thread.engine.step
        room.thread.engine.step = lambda: (time.sleep(0.02), step())[1]
        asyncio.run(go(room))


def test_work_of_who_has_left_is_not_begun_and_its_end_is_told(janus):
    may_go_on = threading.Event()
    begun: list[str] = []

    def work(name: str):
        def go(driver: JobDriver) -> Iterator[int]:
            begun.append(name)
            may_go_on.wait(10)
            driver.stop_if_left()
            begun.append(f"{name} went on")
            return iter(())

        return go

    async def go(room: Room) -> None:
        first, second = (room.begin(work(name), 60) for name in ("first", "second"))
        while not begun:
            await asyncio.sleep(0.01)
        first.cancel()
        second.cancel()
        await asyncio.wait_for(second.ended, 1)
        assert not first.ended.done()  # its thread is still at work
        may_go_on.set()
        await asyncio.wait_for(first.ended, 5)
        assert begun == ["first"]

    with Room(janus, max_jobs=1, metrics=Metrics()) as room:
        asyncio.run(go(room))


def test_results_that_nobody_reads_are_few(janus):
    made: list[int] = []

    def work(_: JobDriver) -> Iterator[int]:
        return (made.append(i) or i for i in range(10 * MAX_UNREAD))

    async def go(room: Room) -> None:
        job = room.begin(work, 60)
        results = job.results()
        assert await anext(results) == 0
        await asyncio.sleep(0.2)
        assert len(made) <= MAX_UNREAD + 2
        assert [i async for i in results] == list(range(1, 10 * MAX_UNREAD))
        forgotten = room.begin(work, 60)
        await asyncio.sleep(0.1)
        forgotten.cancel()
        await asyncio.wait_for(forgotten.ended, 5)

    with Room(janus, max_jobs=2, metrics=Metrics()) as room:
        asyncio.run(go(room))
