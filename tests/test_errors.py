"""How a command ends: exit codes, one sentence, no traceback."""

import importlib
import io
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from metarl.checks.failures import Naming
from metarl.config import ConfigError
from metarl.errors import UserError, foreign, is_expected, run_command


def fail(error):
    def body():
        raise error

    return body


def test_the_bodys_exit_code_is_the_commands():
    assert run_command(lambda: 0) == 0
    assert run_command(lambda: 143) == 143


@pytest.mark.parametrize("error", [UserError("no such thing."), ConfigError("no such thing.")])
def test_an_expected_error_is_one_sentence(error, capsys):
    assert run_command(fail(error)) == 2
    assert capsys.readouterr() == ("", "metarl: error: no such thing.\n")


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(fail(ZeroDivisionError()))


@pytest.mark.parametrize("by_option", [True, False])
def test_a_traceback_on_request(by_option, monkeypatch):
    monkeypatch.setenv("METARL_TRACEBACK", "0" if by_option else "1")
    with pytest.raises(UserError):
        run_command(fail(UserError("x")), traceback=by_option)


def test_every_kind_of_expected_error_is_there():
    from gymnasium.error import DependencyNotInstalled

    from envs import SimulationError
    from metarl.checks.failures import EnvironmentFailureError
    from metarl.checks.nonfinite import NonFiniteError
    from metarl.datasets import DatasetError
    from metarl.errors import EXPECTED
    from metarl.problems.environments import UnusableEnvironmentError
    from metarl.storage.checkpoints import CheckpointError
    from metarl.storage.record import RunError

    kinds = [CheckpointError, RunError, UnusableEnvironmentError, EnvironmentFailureError]
    kinds += [DatasetError, NonFiniteError]
    assert all(is_expected(kind("x")) for kind in [*kinds, SimulationError, DependencyNotInstalled])
    assert all(
        hasattr(importlib.import_module(name), kind)
        for name, kinds in EXPECTED.items()
        for kind in kinds
    )


def test_interruption_is_130(capsys):
    assert run_command(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "metarl: interrupted\n"


class Slow:
    """An environment, as far as its name goes."""

    spec = None

    @property
    def unwrapped(self):
        return self


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_within_an_environment_names_the_call(request, capsys, sent, code, said):
    # A shell starts what runs in its background with SIGINT ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def body():
        env = Slow()
        with Naming(env, "step 7"), Naming(env, "step 7", slot=3), Naming(Slow(), "reset"):
            os.kill(os.getpid(), sent)
            signal.pause()

    assert run_command(body) == code
    assert capsys.readouterr().err == f"metarl: {said} in environment Slow, slot 3, step 7\n"
    assert {number: signal.getsignal(number) for number in before} == before
    assert not Naming.open


def test_a_foreign_message_is_one_line_with_its_type_and_not_too_long():
    assert foreign(KeyError("a\n\tb")) == "KeyError: 'a\\n\\tb'"
    assert foreign(ValueError(" a\r\n\tb ")) == "ValueError: a b"
    assert foreign(SystemExit()) == "SystemExit"
    long = foreign(ValueError("x" * 3000))
    assert len(long) == 300
    assert long.endswith("xxx...")


def test_sigterm_is_143_and_the_old_handler_comes_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda: os.kill(os.getpid(), signal.SIGTERM) or signal.pause() or 0) == 143
    assert capsys.readouterr().err == "metarl: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_leaves_ends_it_quietly():
    code = """
        import sys
        from metarl.errors import run_command
        sys.exit(run_command(lambda: [print("x" * 1000, flush=True) for _ in range(1000)] and 0))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(10)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


@pytest.mark.parametrize("count", [1, 1000])
def test_an_output_that_is_full_is_named(count):
    """Whether it is noticed while printing, or at the end."""
    code = f"""
        import sys
        from metarl.errors import run_command
        sys.exit(run_command(lambda: [print("x" * 1000) for _ in range({count})] and 0))
    """
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "metarl: error: standard output cannot be written (No space left on device).\n"
    assert (done.stderr, done.returncode) == (said, 2)


def test_what_the_output_cannot_encode_is_replaced(monkeypatch):
    """A name on an ASCII output, and a name that is no text at all."""
    for encoding, shown in (("ascii", b"r? r?\n"), ("utf-8", b"r\xc3\xa9 r?\n")):
        taken = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding=encoding))
        assert run_command(lambda: print("r\xe9 r\udcff") or 0) == 0
        assert taken.getvalue() == shown


def test_streams_that_are_closed_lead_nowhere():
    code = """
        import os, sys
        from metarl.errors import run_command
        def body():
            print("to nobody", flush=True)
            return os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
        sys.exit(run_command(body))
    """
    command = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-c"]
    assert subprocess.run([*command, textwrap.dedent(code)], check=False).returncode > 2
