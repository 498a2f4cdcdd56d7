"""Memory is asked for before it is used, given back after, and waited for by nobody who left."""

import threading

import pytest

from aggregator.turns import AbandonedError, Memory, Turn

PATIENCE_S = 30


def test_who_asks_for_more_than_is_free_waits_for_others() -> None:
    """And goes on when they are done."""
    memory = Memory(100)
    first, second = Turn(memory), Turn(memory)
    first.hold(60)
    went_on = threading.Event()

    def work() -> None:
        second.hold(50)
        went_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not went_on.wait(0.3)
    first.done()
    assert went_on.wait(PATIENCE_S)
    thread.join()
    second.done()
    Turn(memory).hold(100)


def test_who_is_not_waited_for_does_not_wait() -> None:
    """Nor begins another stage."""
    memory = Memory(100)
    first, second = Turn(memory), Turn(memory)
    first.hold(100)
    second.abandon()
    with pytest.raises(AbandonedError):
        second.hold(1)
    with pytest.raises(AbandonedError), second.stage("render"):
        pytest.fail("it does not begin")
    second.done()
    first.done()
    Turn(memory).hold(100)


def test_a_turn_asks_once() -> None:
    """Two that each hold half of what they need would wait for each other."""
    turn = Turn(Memory(100))
    turn.hold(10)
    with pytest.raises(AssertionError):
        turn.hold(10)
