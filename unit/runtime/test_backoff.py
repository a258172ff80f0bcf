from __future__ import annotations

import pytest

from dynvol.runtime.backoff import Backoff, RetryLimiter, TokenBucket, exponential


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_limiter(*, cap: float = 30.0) -> RetryLimiter[str]:
    return RetryLimiter(cap=cap, bucket=TokenBucket(rate=1e9, clock=Clock()))


def never_stretched() -> float:
    return 0.0


def test_failures_back_off_from_five_milliseconds_doubling_to_the_cap() -> None:
    limiter = a_limiter(cap=1.0)
    assert [limiter.failed("a") for _ in range(9)] == pytest.approx([0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0])


def test_the_cap_is_far_below_a_thousand_seconds() -> None:
    limiter = a_limiter()
    assert max(limiter.failed("a") for _ in range(100)) == 30.0


@pytest.mark.parametrize("doublings", [1023, 1024, 10**6])
def test_the_delay_is_clamped_before_the_power_overflows(doublings: int) -> None:
    assert exponential(doublings, base=0.005, cap=30.0) == 30.0


def test_keys_fail_each_on_their_own() -> None:
    limiter = a_limiter()
    for _ in range(5):
        limiter.failed("a")
    assert limiter.failed("b") == 0.005
    assert (limiter.failures("a"), limiter.failures("b"), limiter.failures("c")) == (5, 1, 0)


def test_a_forgotten_key_fails_for_the_first_time() -> None:
    limiter = a_limiter()
    limiter.failed("a")
    limiter.failed("a")
    limiter.forget("a")
    limiter.forget("never seen")
    assert limiter.failures("a") == 0
    assert limiter.failed("a") == 0.005


def test_the_bucket_gives_a_burst_and_then_so_many_a_second() -> None:
    bucket = TokenBucket(rate=10.0, burst=3.0, clock=Clock())
    assert [bucket.reserve() for _ in range(6)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2, 0.3])


def test_the_bucket_fills_up_again_and_not_beyond_its_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(rate=10.0, burst=2.0, clock=clock)
    for _ in range(3):
        bucket.reserve()
    clock.now += 3600.0
    assert [bucket.reserve() for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])


def test_all_keys_together_keep_to_the_bucket() -> None:
    limiter: RetryLimiter[int] = RetryLimiter(bucket=TokenBucket(rate=10.0, burst=100.0, clock=Clock()))
    delays = [limiter.failed(key) for key in range(150)]
    assert delays[:100] == pytest.approx([0.005] * 100)
    assert delays[-1] == pytest.approx(5.0)


def test_a_watchers_delay_doubles_from_point_eight_to_thirty_seconds() -> None:
    backoff = Backoff(clock=Clock(), chance=never_stretched)
    assert [backoff.next() for _ in range(8)] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_chance_stretches_a_delay_up_to_twofold() -> None:
    assert Backoff(clock=Clock(), chance=lambda: 0.5).next() == pytest.approx(1.2)
    assert Backoff(clock=Clock(), chance=lambda: 0.999).next() < 1.6


def test_two_quiet_minutes_reset_the_delay() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock, chance=never_stretched)
    for _ in range(3):
        last = backoff.next()
    clock.now += last + 120.0
    assert backoff.next() == pytest.approx(6.4)
    clock.now += 6.4 + 120.1
    assert backoff.next() == pytest.approx(0.8)


def test_the_wait_itself_is_not_taken_for_quiet() -> None:
    clock = Clock()
    backoff = Backoff(base=100.0, cap=1000.0, clock=clock, chance=never_stretched)
    for expected in (100.0, 200.0, 400.0, 800.0):
        assert backoff.next() == expected
        clock.now += expected
