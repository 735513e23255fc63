from __future__ import annotations

import random
import subprocess
import sys

import pytest

from openjanus.engine.scheduler import Mode, Scheduler, capacity_class


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(1, 64), (64, 64), (65, 96), (96, 96), (97, 128), (129, 192), (193, 256), (600, 768)],
)
def test_capacity_classes(tokens: int, expected: int) -> None:
    assert capacity_class(tokens, 4096) == expected


def test_capacity_never_passes_the_context() -> None:
    assert capacity_class(90, 90) == 90
    assert capacity_class(10, 40) == 40
    for context in (50, 100, 1000):
        for tokens in range(1, context + 1):
            assert tokens <= capacity_class(tokens, context) <= context


@pytest.mark.parametrize("tokens", [0, 101])
def test_capacity_refuses_what_does_not_fit(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"takes {tokens} tokens, the context holds 100"):
        capacity_class(tokens, 100)


def test_modes_and_capacities_do_not_share_pages() -> None:
    scheduler = Scheduler({"image": 8, "text": 16}, max_pages=8)
    kinds: list[tuple[Mode, int]] = [("image", 64), ("image", 96), ("text", 64), ("image", 64)]
    for request_id, (mode, capacity) in enumerate(kinds):
        scheduler.submit(request_id, mode, capacity)
    seats = [scheduler.admit() for _ in kinds]
    assert [seat.page_id for seat in seats if seat] == [0, 1, 2, 0]
    assert [scheduler.page_shape(page) for page in scheduler.page_ids] == kinds[:3]


def test_a_full_house_queues_in_order_and_nobody_overtakes() -> None:
    scheduler = Scheduler({"image": 1, "text": 1}, max_pages=1)
    scheduler.submit(0, "image", 64)
    scheduler.submit(1, "text", 64)
    scheduler.submit(2, "image", 64)
    assert scheduler.admit() is not None
    assert scheduler.admit() is None
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)
    scheduler.release(0)
    seat = scheduler.admit()  # the empty image page makes room for a text page
    assert seat is not None
    assert seat.request_id == 1
    assert scheduler.page_shape(seat.page_id) == ("text", 64)
    assert scheduler.admit() is None


def test_release_of_waiting_and_unknown_requests() -> None:
    scheduler = Scheduler({"image": 1, "text": 1}, max_pages=1)
    scheduler.submit(0, "text", 64)
    scheduler.submit(1, "text", 64)
    scheduler.admit()
    assert scheduler.release(1)
    assert not scheduler.release(1)
    assert scheduler.num_waiting == 0
    assert scheduler.seat(0) is not None


@pytest.mark.parametrize("seed", range(20))
def test_no_slot_is_ever_shared_and_everybody_is_served(seed: int) -> None:
    rng = random.Random(seed)
    slots: dict[Mode, int] = {"image": 2, "text": 3}
    scheduler = Scheduler(slots, max_pages=rng.randint(1, 4))
    waiting, running, served = list(range(60)), set(), []
    for request_id in waiting:
        scheduler.submit(request_id, rng.choice(("image", "text")), rng.choice((64, 96)))
    while scheduler.num_waiting or running:
        while seat := scheduler.admit():
            running.add(seat.request_id)
            served.append(seat.request_id)
        assert running, "requests wait although everything is free"
        places = [scheduler.seat(request_id) for request_id in running]
        assert len({(p.page_id, p.slot) for p in places if p}) == len(running)
        assert len(scheduler.page_ids) <= 4
        assert sum(len(scheduler.seated(page)) for page in scheduler.page_ids) == len(running)
        for request_id in rng.sample(sorted(running), rng.randint(1, len(running))):
            assert scheduler.release(request_id)
            running.discard(request_id)
    assert served == waiting


def test_it_needs_no_torch() -> None:
    code = "import sys, openjanus.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
