"""How a command of this package ends: one sentence for what the user can mend, and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

MISTAKE, INTERRUPTED, TERMINATED, PIPE_CLOSED = 2, 130, 143, 141
EXPECTED = {
    "metarl.config": ("ConfigError",),
    "metarl.runs": ("RunError",),
    "metarl.checkpoints": ("CheckpointError",),
    "metarl.datasets": ("DatasetError",),
    "metarl.failures": ("EnvironmentFailureError",),
    "metarl.liveness": ("RankEndedError",),
    "metarl.nonfinite": ("NonFiniteError",),
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
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return body()
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except Terminated:
        return _say("terminated", TERMINATED)
    except BrokenPipeError:
        # What is still buffered has no reader either: without this the interpreter complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        if traceback or os.environ.get("METARL_TRACEBACK") == "1" or not is_expected(error):
            raise
        return _say(f"error: {error}", MISTAKE)
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _say(sentence: str, code: int) -> int:
    print(f"metarl: {sentence}", file=sys.stderr)
    return code
