"""How a command of this package ends: one sentence for what the user can mend, and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from metarl.presentation.plaintext import writable

MISTAKE, INTERRUPTED, TERMINATED, PIPE_CLOSED = 2, 130, 143, 141
LONGEST = 300
"""Characters of a message that a stranger wrote."""
GRACE = 3.0
"""Seconds that a call of an environment has to return once the process shall end."""
EXPECTED = {
    "metarl.config": ("ConfigError",),
    "metarl.storage.record": ("RunError",),
    "metarl.storage.checkpoints": ("CheckpointError",),
    "metarl.datasets": ("DatasetError",),
    "metarl.checks.failures": ("EnvironmentFailureError",),
    "metarl.distributed.liveness": ("RankEndedError",),
    "metarl.checks.nonfinite": ("NonFiniteError",),
    "metarl.problems.environments": ("UnusableEnvironmentError",),
    "metarl.problems.images": ("UnusableImagesError",),
    "metarl.errors": ("UserError",),
    "envs.errors": ("SimulationError",),
    "gymnasium.error": ("Error",),
}
"""Exceptions whose message is a sentence for the user. Looked up once one is raised, so that its
module is loaded already: a command that reads a file need not load the simulator for its errors."""


class UserError(Exception):
    """What the command line asks for cannot be done; one sentence that says why and what to do."""


class LostOutputError(Exception):
    """Standard output takes no more; the cause is an OSError."""


class Terminated(BaseException):
    """The process was asked to end, by SIGTERM."""


def run_command(body: Callable[[], int], traceback: bool = False) -> int:
    """Run a command and give its exit code, with a sentence instead of a traceback.

    Args:
        body: the command; gives its own exit code.
        traceback: raise expected errors as they are; METARL_TRACEBACK=1 asks for it too.

    Returns:
        The body's; 2 after an expected error, whose sentence goes to standard error; 130 after
        Ctrl-C; 143 after SIGTERM, unless the body handles it; 141 when nobody reads the output.
    """
    _open_what_is_closed()
    stdout = sys.stdout
    sys.stdout = _Output(stdout)
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end_at_once)}
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # a job of a script ignores it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, end_at_once)
    try:
        code = body()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted", INTERRUPTED)
    except Terminated as error:
        return _say(str(error) or "terminated", TERMINATED)
    except LostOutputError as error:
        # What is still buffered cannot be written either: without this the interpreter complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if isinstance(error.__cause__, BrokenPipeError):
            return PIPE_CLOSED
        return _say(f"error: {error}", MISTAKE)
    except Exception as error:
        if traceback or os.environ.get("METARL_TRACEBACK") == "1" or not is_expected(error):
            raise
        return _say(f"error: {error}", MISTAKE)
    else:
        return code
    finally:
        sys.stdout = stdout
        for number, handler in before.items():
            signal.signal(number, handler)


def is_expected(error: BaseException) -> bool:
    """Whether the message of an exception is a sentence for the user."""
    return isinstance(
        error,
        tuple(
            getattr(sys.modules[module], name)
            for module, names in EXPECTED.items()
            if module in sys.modules
            for name in names
        ),
    )


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def foreign(error: BaseException) -> str:
    """The same of an exception that a stranger's code raised: with its type, and cut where it is long."""
    kind, text = type(error).__name__, one_line(error)
    whole = kind if text == kind else f"{kind}: {text}"
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 3]}..."


def end_at_once(number: int, _frame: FrameType | None = None) -> NoReturn:
    """Handle SIGINT or SIGTERM: raise, and name the call of an environment that is open, if there is one.

    What is raised unwinds this thread. A call that swallows it, or that another thread is in, gets `GRACE` seconds:
    then the process ends as it is.
    """
    interrupted = number == signal.SIGINT
    sentence, code = ("interrupted", INTERRUPTED) if interrupted else ("terminated", TERMINATED)
    # Who has not loaded it steps no environment.
    failures = sys.modules.get("metarl.checks.failures")
    call = failures.Naming.longest_open() if failures else None
    if call:
        sentence += f" in environment {call.place()}"
        leave = threading.Thread(target=_leave_if_open, args=(call, sentence, code), daemon=True)
        leave.start()
    raise KeyboardInterrupt(sentence) if interrupted else Terminated(sentence)


def _leave_if_open(call: Any, sentence: str, code: int) -> None:
    time.sleep(GRACE)
    if call.is_open:
        with suppress(Exception):
            sys.stdout.flush()
        _say(sentence, code)
        os._exit(code)


class _Output:
    """A stream whose failures are told from those of files, and that takes what its encoding does not have."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _output_named():
            return self._stream.write(writable(text, self._stream))

    def flush(self) -> None:
        with _output_named():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _output_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LostOutputError(f"standard output cannot be written ({error.strerror}).") from error


def _open_what_is_closed() -> None:
    """Let standard streams that are closed lead nowhere: else the next file that is opened takes their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - it replaces one that stays open


def _say(sentence: str, code: int) -> int:
    print(f"metarl: {sentence}", file=sys.stderr, flush=True)
    return code
