"""A crew: what comes back is what one thread would have found, and nobody is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from shrinkage.training.crew import Crew, processors

SIZES = [1, 2, 3, 8]


@pytest.fixture(autouse=True)
def nobody_is_left():
    before = threading.active_count()
    yield
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("size", SIZES)
def test_each_result_comes_with_its_item_when_it_is_done(size):
    def work(item: int) -> int:
        time.sleep(0.3 * (item == 0))
        return item * item

    found = list(Crew().map(work, range(10), size))
    assert sorted(found) == [(i, i * i) for i in range(10)]
    assert found.index((0, 0)) == (0 if size == 1 else 9)  # nobody waits for the slow one


@pytest.mark.parametrize("size", SIZES)
def test_nothing_to_do_is_done(size):
    assert list(Crew().map(str, [], size)) == []


@pytest.mark.parametrize("size", SIZES)
def test_so_many_work_at_a_time(size):
    there, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> None:
        nonlocal there, most
        with lock:
            there += 1
            most = max(most, there)
        time.sleep(0.05)
        with lock:
            there -= 1

    list(Crew().map(work, range(12), size))
    assert most == size


@pytest.mark.parametrize("size", SIZES)
def test_what_is_asked_for_is_done_by_the_thread_that_called(size):
    crew, threads = Crew(), set[Any]()

    def work(item: int) -> int:
        threads.add(threading.current_thread())
        who, twice = crew.here(lambda: (threading.current_thread(), 2 * item))
        assert who is threading.main_thread()
        return twice

    assert sorted(crew.map(work, range(6), size)) == [(i, 2 * i) for i in range(6)]
    assert (threading.main_thread() in threads) == (size == 1)


def taken(seen: list[int], count: int) -> Any:
    for i in range(count):
        assert threading.current_thread() is threading.main_thread()
        seen.append(i)
        yield i


@pytest.mark.parametrize("size", SIZES)
def test_items_are_taken_when_there_is_a_worker_for_them(size):
    seen: list[int] = []
    found = Crew().map(lambda item: item, taken(seen, 20), size)
    next(found)
    assert len(seen) <= 2 * size
    found.close()


def raises(where: str, crew: Crew) -> Callable[[int], None]:
    def fail() -> None:
        raise ValueError("item 1")

    def work(item: int) -> None:
        if item == 1:
            crew.here(fail) if where == "here" else fail()
        while item == 0 and where != "first":  # goes on until it is told to stop
            time.sleep(0.01)
            crew.check() if where == "check" else crew.here(lambda: None)

    return work


@pytest.mark.parametrize("where", ["here", "work", "check"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_an_error_is_raised_at_once_and_the_others_stop(size, where):
    crew = Crew()
    with pytest.raises(ValueError, match="item 1"):
        list(crew.map(raises(where, crew), range(5), size))
    assert sorted(crew.map(str, range(3), size)) == [(0, "0"), (1, "1"), (2, "2")]  # it can work again


def test_an_error_of_one_alone_is_raised():
    crew = Crew()
    with pytest.raises(ValueError, match="item 1"):
        list(crew.map(raises("first", crew), range(5), 1))


@pytest.mark.parametrize("size", SIZES)
def test_who_asks_for_no_more_leaves_nobody_behind(size):
    crew = Crew()

    def work(item: int) -> int:
        for _ in range(1 + 50 * item):
            crew.here(lambda: None)
        return item

    found = crew.map(work, range(100), size)
    item, same = next(found)
    assert item == same
    found.close()


def test_a_process_may_use_a_processor_at_least():
    assert processors() >= 1
