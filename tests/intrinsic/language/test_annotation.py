"""The annotation service: nothing twice, order, bounds, and failures that end no thread."""

import threading
import time
from collections import Counter

import pytest

from firstlight.intrinsic.language.annotation import AnnotationService, requests_at_once
from firstlight.intrinsic.language.judges.judge import Judge, JudgeError
from firstlight.intrinsic.language.limits import CircuitBreaker, Limits, RateLimiter
from firstlight.intrinsic.language.store import Label, LabelStore


class Scripted(Judge):
    """Raises or returns what a script says, one entry a request; then rates 1. Can be held."""

    model, prompt = "scripted", "p"

    def __init__(self, script=()):
        self.script, self.asked, self.gate = list(script), [], threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def rate(self, texts):
        self.entered.release()
        self.gate.wait()
        self.calls += 1
        self.asked.append(list(texts))
        if self.script:
            entry = self.script.pop(0)
            if isinstance(entry, Exception):
                raise entry
            return entry
        return [1.0] * len(texts)


@pytest.fixture
def services():
    made = []

    def make(judge, store=None, **options):
        options = {"breaker": CircuitBreaker(first_wait=0.01, longest_wait=0.05), **options}
        service = AnnotationService(judge, store or LabelStore(), **options)
        made.append(service)
        service.start()
        return service

    yield make
    for service in made:
        if isinstance(service.judge, Scripted):
            service.judge.gate.set()
        service.close()


def items(*texts):
    return {(text,): 1 for text in texts}


def test_answers_come_back_once_and_are_stored(services):
    service = services(Scripted([[0.25, None]]))
    service.submit(items("a", "b"))
    assert service.wait(10)
    taken = service.take()
    assert set(taken) == {("a",), ("b",)}
    assert sorted(map(str, taken.values())) == ["0.25", "None"]
    assert service.take() == {}
    assert service.store.find(taken, "scripted", "p") == taken
    assert service.metrics()["abstained"] == 1


def test_nothing_is_asked_twice_whether_waiting_under_way_or_answered(services):
    judge = Scripted()
    judge.gate.clear()
    service = services(judge, batch_size=1, num_workers=3)
    for _ in range(5):
        service.submit(items("a", "b", "c", "d"))
    for _ in range(3):
        judge.entered.acquire()
    for _ in range(5):
        service.submit(items("a", "b", "c", "d"))
    judge.gate.set()
    assert service.wait(10)
    service.submit(items("a", "b", "c", "d"))
    assert service.wait(10)
    assert Counter(text for batch in judge.asked for text in batch) == dict.fromkeys("abcd", 1)


def test_the_caller_never_waits_for_a_judge_that_hangs(services):
    judge = Scripted()
    judge.gate.clear()
    service = services(judge, batch_size=1)
    service.submit(items("a"))
    judge.entered.acquire()  # the judge hangs from here on
    service.submit(items(*map(str, range(1000))))
    assert service.take() == {}
    assert service.metrics()["queue"] == 1001


def test_a_batch_is_half_the_newest_and_half_the_most_frequent(services):
    judge = Scripted()
    judge.gate.clear()
    service = services(judge, batch_size=4)
    service.submit(items("first"))
    judge.entered.acquire()
    service.submit({("often",): 50, ("rare",): 1, ("sometimes",): 5})
    service.submit(items("newer"))
    service.submit(items("newest"))
    judge.gate.set()
    assert service.wait(10)
    assert judge.asked[1] == ["newest", "newer", "often", "sometimes"]


def test_a_full_queue_drops_what_was_not_seen_for_longest(services):
    judge = Scripted()
    judge.gate.clear()
    service = services(judge, queue_size=3)
    service.submit(items("held"))
    judge.entered.acquire()
    for text in "abcd":
        service.submit(items(text))
    service.submit(items("b"))
    service.submit(items("e"))
    assert service.metrics()["queue"] == 3
    assert service.dropped == 3
    judge.gate.set()
    assert service.wait(10)
    assert {text for batch in judge.asked[1:] for text in batch} == {"b", "d", "e"}
    service.submit(items("a"))  # what was dropped comes back when it is seen again
    assert service.wait(10)
    assert ("a",) in service.take()


@pytest.mark.parametrize("error", [JudgeError("no"), RuntimeError("a bug"), [1.0] * 7])
def test_a_failed_request_is_repeated_and_gives_no_label_meanwhile(services, error):
    judge = Scripted([error, error])
    service = services(judge)
    service.submit(items("a", "b"))
    assert service.wait(10)
    assert service.take() == {("a",): 1.0, ("b",): 1.0}
    assert service.errors == 2
    assert len(judge.asked) == 3


def test_a_permanent_failure_ends_the_asking(services):
    judge = Scripted([JudgeError("the key is refused", permanent=True)])
    service = services(judge)
    service.submit(items("a"))
    assert service.wait(10)
    service.submit(items("b"))
    assert service.wait(10)
    assert judge.calls == 1
    assert service.take() == {}
    assert service.metrics()["circuit_open"] == 1


def test_labels_of_the_store_are_taken_without_asking(services):
    store = LabelStore()
    store.put([Label(("a",), 0.0, "scripted", "p")])
    store.correct(("b",), 1.0)
    judge = Scripted()
    service = services(judge, store)
    service.submit(items("a", "b"))
    assert service.wait(10)
    assert service.take() == {("a",): 0.0, ("b",): 1.0}
    assert judge.calls == 0


def test_an_item_that_another_process_claimed_is_taken_from_it(services, tmp_path):
    mine, other = LabelStore(tmp_path / "labels"), LabelStore(tmp_path / "labels")
    assert other.claim([("a",)], "scripted", "p") == [("a",)]
    judge = Scripted()
    service = services(judge, mine)
    service.submit(items("a"))
    assert not service.wait(0.2)
    other.put([Label(("a",), 0.75, "scripted", "p")])
    assert service.wait(10)
    assert service.take() == {("a",): 0.75}
    assert judge.calls == 0


def test_limits_of_calls_hold_also_for_failed_ones(services):
    judge = Scripted([JudgeError("no"), JudgeError("no")])
    service = services(judge, batch_size=1, limits=Limits(calls=5))
    service.submit(items(*"abcdefgh"))
    assert service.wait(10)
    assert judge.calls == 5
    assert len(service.take()) == 3


def test_closing_with_a_hanging_judge_takes_no_longer_than_its_grace(services):
    judge = Scripted()
    judge.gate.clear()
    service = services(judge, num_workers=2, batch_size=1)
    service.submit(items("a", "b"))
    judge.entered.acquire()
    service.close()  # returns although the judge does not
    assert not judge.gate.is_set()


class Time:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_circuit_opens_tries_one_at_a_time_and_heals():
    clock = Time()
    breaker = CircuitBreaker(threshold=3, first_wait=1.0, longest_wait=8.0, clock=clock, seed=0)
    waits = []
    for failure in range(6):
        clock.now += breaker.wait()
        assert breaker.allow()
        assert breaker.is_open == (failure >= 3)
        if failure:
            assert not breaker.allow()  # the trial is under way
        breaker.fail()
        waits.append(breaker.wait())
        assert not breaker.allow()
    for n, wait in enumerate(waits):
        assert 0.5 * min(2**n, 8) <= wait <= min(2**n, 8)
    assert breaker.opened == 1
    clock.now += breaker.wait()
    assert breaker.allow()
    breaker.succeed()
    assert not breaker.is_open
    assert breaker.allow()
    assert breaker.allow()


def test_what_a_server_asks_to_wait_is_waited():
    clock = Time()
    breaker = CircuitBreaker(longest_wait=8.0, clock=clock)
    breaker.allow()
    breaker.fail(retry_after=120.0)
    assert breaker.wait() == 120.0
    breaker = CircuitBreaker(clock=clock)
    breaker.fail(retry_after=float(10**9))
    assert breaker.wait() == 3600.0


def test_a_rate_limit_spaces_requests():
    clock = Time()
    limiter = RateLimiter(30.0, clock)
    assert [limiter.reserve() for _ in range(3)] == [0.0, 2.0, 4.0]
    clock.now = 100.0
    assert limiter.reserve() == 0.0
    assert RateLimiter(None, clock).reserve() == 0.0


@pytest.mark.parametrize("name", ["batch_size", "num_workers", "queue_size"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        AnnotationService(Scripted(), LabelStore(), **{name: 0})


def test_a_closed_service_keeps_no_thread():
    before = threading.active_count()
    service = AnnotationService(Scripted(), LabelStore(), num_workers=3)
    service.start()
    service.submit(items("a"))
    assert service.wait(10)
    service.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_only_an_endpoint_is_asked_several_times_at_once_unless_told_otherwise():
    url, free = "http://localhost/v1", Limits(calls_per_minute=60)
    assert requests_at_once(None, None, free) == 1
    assert requests_at_once(None, url, free) == 8
    assert requests_at_once(None, url, Limits(calls=2)) == 1  # only one request crosses it
    assert requests_at_once(3, None, free) == requests_at_once(3, url, Limits(calls=2)) == 3
