from __future__ import annotations

import random
import subprocess
import sys

import pytest

from openjanus.engine.scheduler import PATIENCE, Mode, Scheduler, capacity_class


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


def test_a_full_house_queues_in_order() -> None:
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


@pytest.mark.parametrize("seed", range(40))
def test_no_slot_is_ever_shared_and_everybody_is_served(seed: int) -> None:
    rng = random.Random(seed)
    slots: dict[Mode, int] = {"image": 2, "text": 3, "compose": 1}
    budget = None if seed % 2 else 4 * 96
    max_pages = rng.randint(1, 4)
    scheduler = Scheduler(slots, max_pages, cost=lambda _, capacity: capacity, budget=budget)
    kinds: list[Mode] = ["image", "text", "compose"]
    modes: dict[int, Mode] = {request_id: rng.choice(kinds) for request_id in range(150)}
    coming, running = list(modes), set()
    served: list[int] = []
    gone: set[int] = set()
    while coming or scheduler.num_waiting or running:
        for _ in range(min(len(coming), rng.randint(0, 9))):
            request_id = coming.pop(0)
            scheduler.submit(request_id, modes[request_id], rng.choice((64, 96)))
        waits = scheduler.num_waiting > 0
        while seat := scheduler.admit():
            assert seat.request_id not in gone
            running.add(seat.request_id)
            served.append(seat.request_id)
        assert running or not waits, "requests wait although everything is free"
        places = [scheduler.seat(request_id) for request_id in running]
        assert len({(p.page_id, p.slot) for p in places if p}) == len(running)
        pages = scheduler.page_ids
        assert len(pages) <= max_pages
        assert budget is None or sum(scheduler.page_shape(page)[1] for page in pages) <= budget
        assert sum(len(scheduler.seated(page)) for page in pages) == len(running)
        for request_id in rng.sample(sorted(running), min(len(running), rng.randint(0, 4))):
            assert scheduler.release(request_id)
            running.discard(request_id)
        if rng.random() < 0.3:  # somebody who waits, or has not come, is gone
            request_id = rng.choice(range(150))
            if request_id not in running and scheduler.release(request_id):
                gone.add(request_id)
    assert len(served) == len(set(served))
    assert set(served) | gone == set(modes)
    for mode in slots:
        alike = [request_id for request_id in served if modes[request_id] == mode]
        assert alike == sorted(alike), "one of a mode overtook another of it"
    for place, request_id in enumerate(served):
        assert sum(other > request_id for other in served[:place]) <= PATIENCE + sum(slots.values())


def test_a_flood_of_pictures_leaves_words_a_place_and_the_other_way_round() -> None:
    sides: list[tuple[Mode, Mode]] = [("image", "text"), ("text", "image")]
    for flood, late in sides:
        scheduler = Scheduler({"image": 8, "text": 16}, max_pages=8)
        for request_id in range(1000):
            scheduler.submit(request_id, flood, 64)
        while scheduler.admit():
            pass
        assert len(scheduler.page_ids) == 7
        scheduler.submit(1000, late, 64)
        seat = scheduler.admit()
        assert seat is not None
        assert seat.request_id == 1000


def test_who_has_been_overtaken_often_enough_is_next() -> None:
    scheduler = Scheduler({"image": 2, "text": 1}, max_pages=1)
    for request_id in range(2):
        scheduler.submit(request_id, "image", 64)
        assert scheduler.admit() is not None
    scheduler.submit(2, "text", 64)
    running, seated = [0, 1], 0
    for request_id in range(3, 3 + 2 * PATIENCE):
        scheduler.release(running.pop(0))
        scheduler.submit(request_id, "image", 64)
        seat = scheduler.admit()
        if seat is None:
            break
        seated += 1
        running.append(seat.request_id)
    assert seated == PATIENCE
    scheduler.release(running.pop())
    seat = scheduler.admit()
    assert seat is not None
    assert seat.request_id == 2


def test_memory_limits_pages_and_refuses_what_never_fits() -> None:
    scheduler = Scheduler(
        {"image": 1, "text": 1}, max_pages=8, cost=lambda _, capacity: 10 * capacity, budget=2000
    )
    with pytest.raises(ValueError, match=r"256 tokens a row takes 2,560 bytes .* has 2,000"):
        scheduler.check("image", 256)
    scheduler.check("image", 192)
    for request_id in range(4):
        scheduler.submit(request_id, "image", 64)
    seats = [scheduler.admit() for _ in range(4)]
    assert [seat is not None for seat in seats] == [True, True, False, False]  # 1,280 of 1,750


def test_it_needs_no_torch() -> None:
    code = "import sys, openjanus.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
