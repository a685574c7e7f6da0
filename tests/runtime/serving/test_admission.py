"""Admission of requests when not all can be answered in time, on a simulated clock."""

import numpy as np
import pytest

from caan.errors import Overloaded
from caan.runtime.serving.request_queue import Request, RequestQueue

ITEMS = 10  # of the gallery
ONE = 0.1  # seconds per request, alone or in a batch


class World:
    """A queue whose batches take ONE per request, on a clock that only the test advances."""

    def __init__(self, gallery, *, noise=0.0, max_batch=32, max_queue=64):
        self.now, self.gallery, self.done_in_time, self.wasted, self.refused = 100.0, gallery, 0, 0, 0
        self.queue = RequestQueue(0, max_batch, max_queue, None, clock=lambda: self.now)
        self._generator, self._noise = np.random.default_rng(1), noise

    def ask(self, timeout=np.inf):
        request = Request(["w1"], self.gallery, 3, self.now, deadline=self.now + timeout)
        try:
            self.queue.admit(request)
        except Overloaded as error:
            self.refused += 1
            return str(error)
        return ""

    def score(self):
        """Take a batch and advance the clock by its time; returns its size."""
        batch = self.queue.take()
        seconds = ONE * len(batch) * self._generator.lognormal(0, self._noise)
        self.now += seconds
        self.queue.measured(batch, seconds)
        for request in batch:
            in_time = request.deadline > self.now
            self.done_in_time, self.wasted = self.done_in_time + in_time, self.wasted + (not in_time)
            request.answer.set_result([])
        return len(batch)


@pytest.fixture(scope="module")
def gallery(retriever):
    return retriever.encode_images(np.ones((ITEMS, 5, 12), np.float32))


def warm(world):
    """Let the queue learn the time per request and its spread."""
    for _ in range(40):
        world.ask()
        world.score()
    world.done_in_time = world.wasted = world.refused = 0
    return world


def test_a_request_that_cannot_be_answered_in_time_is_refused_with_a_reason(gallery):
    world = warm(World(gallery))
    for _ in range(20):  # two seconds of work
        assert world.ask() == ""
    message = world.ask(timeout=1.5)
    assert "an answer would take about 2.1 s, and the timeout leaves 1.5 s; try again later" in message
    assert world.ask(timeout=3) == ""
    assert world.ask() == ""  # a request without a timeout is admitted


def test_an_idle_machine_ignores_its_estimates(gallery):
    world = warm(World(gallery))
    world.now += 1
    assert world.ask(timeout=ONE / 2) == ""
    assert world.score() == 1


def test_a_batch_is_sized_to_end_before_its_deadlines(gallery):
    world = World(gallery)
    world.ask(timeout=1.0)
    for _ in range(30):
        world.ask()
    world.queue.measured([Request(["w1"], gallery, 3, 0)], ONE)
    assert 1 < world.score() < 10 and world.wasted == 0


def test_expired_requests_are_never_scored(gallery):
    world = World(gallery)
    for _ in range(8):
        world.ask(timeout=1)
    world.now += 2
    world.ask(timeout=50)
    assert world.score() == 1 and world.wasted == 0


def test_the_first_batch_is_small_while_the_speed_is_unknown(gallery):
    world = World(gallery)
    for _ in range(64):
        world.ask(timeout=5)
    assert world.score() == 4


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_150_at_once_are_refused_or_answered_in_time(gallery, noise):
    # A timeout of 5 s is enough for 50 of them.
    world = World(gallery, noise=noise)
    for _ in range(150):
        world.ask(timeout=5)
    while world.queue._waiting() and world.now < 104.9:
        world.score()
    assert world.refused == 150 - 64  # max_queue
    assert world.done_in_time >= 40 - 40 * noise and world.wasted <= 4 + 20 * noise


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("timeout", [1.0, 5.0])
@pytest.mark.parametrize("times", [2, 10])
def test_goodput_under_overload_is_the_machines_capacity(gallery, noise, timeout, times):
    world = warm(World(gallery, noise=noise))
    start, arrivals = world.now, 0
    while world.now < start + 60:
        while arrivals * ONE / times < world.now - start:
            world.ask(timeout=timeout)
            arrivals += 1
        if not world.queue._waiting():
            world.ask(timeout=timeout)
            arrivals += 1
        world.score()
    goodput = world.done_in_time * ONE / (world.now - start)
    assert goodput >= 0.8, (goodput, world.wasted, world.refused)
