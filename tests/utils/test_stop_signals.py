# SPDX-License-Identifier: Apache-2.0
import os
import signal
import threading

import pytest

from utils.stop_signals import SIGNALS, StopSignals, name_of


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered_and_handlers_come_back(number) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop() and stop.received is None
        os.kill(os.getpid(), number)
        assert stop() and stop.received == name_of(number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == name_of(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_is_not_waited_for(first) -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_takes_no_signals() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopSignals() as stop:
            seen.append((stop(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start(), thread.join()
    assert seen == [(False, before)]
