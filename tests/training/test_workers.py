import threading
import time
import weakref

import pytest
import torch

from mpt.training.workers import Workers, cpu_workers, workers_for


@pytest.fixture
def workers():
    made = []
    yield lambda *args, **options: made.append(Workers(*args, **options)) or made[-1]
    for one in made:
        one.close()


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(workers, count):
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert workers(count).map(slow_first, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("count", [1, 3])
def test_results_that_have_been_used_are_let_go(workers, count):
    living = []
    for number, result in enumerate(workers(count).each(lambda item: torch.full((2,), item), range(5))):
        assert result.tolist() == [number, number]
        living.append(weakref.ref(result))
        del result
        assert [one() for one in living[:-1]] == [None] * number


def test_items_are_computed_side_by_side(workers):
    barrier = threading.Barrier(3, timeout=10)
    workers(3).map(lambda _: barrier.wait(), range(3))


def test_one_worker_computes_in_the_calling_thread(workers):
    assert workers().map(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


def test_what_goes_wrong_is_raised(workers):
    with pytest.raises(ZeroDivisionError):
        workers(2).map(lambda item: 1 / item, [1, 0, 2])


def test_what_was_not_begun_is_left_undone(workers):
    done, two, failed = [], workers(2), threading.Event()

    def fail_first(item):
        if item == 0:
            raise ZeroDivisionError
        failed.wait(10)
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        two.map(fail_first, range(100))
    closing = threading.Thread(target=two.close)
    closing.start()
    time.sleep(0.05)
    failed.set()
    closing.join(10)
    assert len(done) <= 2


@pytest.mark.parametrize(("device", "count"), [("cpu", 3), ("cuda", 1)])
def test_a_cpu_has_workers_for_its_threads_and_a_gpu_one(monkeypatch, device, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = workers_for(torch.device(device), 4)
    found.close()
    assert found.count == count


def test_threads_of_an_operation_are_set_for_the_pool_and_not_for_the_caller(workers):
    before = torch.get_num_threads()
    assert workers(2, operation_threads=3).map(lambda _: torch.get_num_threads(), range(2)) == [3, 3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("threads", "micro_batches", "count", "inside"), [(1, 4, 1, None), (2, 4, 2, 1), (8, 4, 4, 2), (8, 1, 1, None)]
)
def test_threads_go_to_micro_batches_first(threads, micro_batches, count, inside):
    found = cpu_workers(threads, micro_batches)
    assert found.count == count
    if inside is not None:
        assert set(found.map(lambda _: torch.get_num_threads(), range(count))) == {inside}
    found.close()
