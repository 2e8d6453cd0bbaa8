"""Signals while a command imports modules and composes its config."""

import signal

import pytest

from firstlight.scripts.interrupts import defer_signals, end_on_signal


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_deferred_signal_is_raised_once_after_the_block(name):
    received, number = [], signal.Signals[name]
    before = signal.signal(number, lambda signum, _: received.append(signum))
    try:
        with defer_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert received == []
        assert received == [number]
        signal.raise_signal(number)
        assert received == [number] * 2
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("name", "ends"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("replaced_by", ["nothing", "an error", "silence"])
def test_a_signal_ends_the_block_even_if_its_exception_is_replaced(name, ends, replaced_by):
    """As by OmegaConf, which replaces exceptions raised inside it by its own."""

    @end_on_signal()
    def compose():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            if replaced_by == "nothing":
                raise
            if replaced_by == "an error":
                raise AttributeError("replaced") from error

    number = signal.Signals[name]
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(ends) as raised:
            compose()
        assert name == "SIGINT" or raised.value.code == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
        with end_on_signal():  # no signal
            pass
        signal.signal(number, signal.SIG_IGN)
        with end_on_signal():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
