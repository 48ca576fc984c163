"""Work in a thread as a stream: results, errors, cancellation, and no more than the latest news."""

import threading
import time

import pytest

from ui.jobs import BackgroundJob


def test_a_job_tells_and_ends_with_its_result() -> None:
    def work(tell):
        for n in range(3):
            tell(n)
        return "done"

    job = BackgroundJob(work)
    told = list(job)
    assert job.result == "done" and told[-1] == 2 and told == sorted(told)


def test_what_is_outdated_is_left_out() -> None:
    told_all = threading.Event()

    def work(tell):
        tell(0)
        assert told_all.wait(5)
        for n in range(1, 100):
            tell(n)

    job = BackgroundJob(work)
    stream = iter(job)
    assert next(stream) == 0
    told_all.set()
    assert job.join(5)
    assert list(stream) == [99]


def test_an_error_of_the_work_is_raised_where_it_is_read() -> None:
    def work(tell):
        tell(1)
        raise ValueError("no")

    stream = iter(BackgroundJob(work))
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no"):
        list(stream)


@pytest.mark.parametrize("how", ["stop", "leave"])
def test_a_canceled_job_ends_soon_and_quietly(how: str) -> None:
    reached = []

    def work(tell):
        for n in range(10_000):
            reached.append(n)
            tell(n)
            time.sleep(0.001)

    job = BackgroundJob(work)
    stream = iter(job)
    next(stream)
    if how == "stop":
        job.stop()
        assert len(list(stream)) <= 2
    else:
        stream.close()
    assert job.join(5) and len(reached) < 10_000 and job.result is None
