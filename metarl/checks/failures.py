"""Failures of environments, with the name of what failed."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from metarl.checks.nonfinite import NonFiniteError
from metarl.errors import foreign


class EnvironmentFailureError(Exception):
    """An environment raised, or returned what cannot be used; the message names it, its task and its step.

    Args:
        message: one sentence.
        slot: of the vector environment; None: not known.
    """

    def __init__(self, message: str, slot: int | None = None) -> None:
        super().__init__(message)
        self.slot = slot


class Naming:
    """Turns an environment's exception into one that says where it came from; a context manager.

    Args:
        env: a vector environment.
        where: ``reset``, or the step.
        slot: of the environment; None: the exception may know it, by an attribute ``slot``.

    Attributes:
        open: the calls that have not returned, of all threads, the newest last: where a process is that hangs.
        begun: how many there have been.
        returned: environments, by their identity, and which of ``reset`` and ``step`` they have returned from.
    """

    open: ClassVar[dict[int, Naming]] = {}
    begun: ClassVar[int] = 0
    returned: ClassVar[set[tuple[int, str]]] = set()

    def __init__(self, env: Any, where: str, slot: int | None = None) -> None:
        self.env, self.where, self.slot = env, where, slot

    def __enter__(self) -> None:
        Naming.open[id(self)] = self
        Naming.begun += 1

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        Naming.open.pop(id(self), None)
        if error is None:
            Naming.returned.add(self._kind)
        if isinstance(error, EnvironmentFailureError):
            return
        # An environment that calls sys.exit must not end training as if it were done.
        if isinstance(error, (Exception, SystemExit)):
            if self.slot is None:
                self.slot = getattr(error, "slot", None)
            message = f"environment {self.place()}: {foreign(error)}"
            raise EnvironmentFailureError(message, self.slot) from error

    @property
    def is_open(self) -> bool:
        """Whether the call has not returned."""
        return id(self) in Naming.open

    @property
    def first(self) -> bool:
        """Whether the environment has not returned from such a call before."""
        return self._kind not in Naming.returned

    @property
    def _kind(self) -> tuple[int, str]:
        return id(self.env), self.where.partition(" ")[0]

    def place(self) -> str:
        """The environment, the slot if it is known, and the step."""
        slot = "" if self.slot is None else f", slot {self.slot}"
        return f"{name_of(self.env)}{slot}, {self.where}"

    @staticmethod
    def forget(env: Any) -> None:
        """An environment is closed: another one may get its identity."""
        Naming.returned.difference_update({(id(env), call) for call in ("reset", "step")})

    @staticmethod
    def longest_open() -> Naming | None:
        """Of the calls that have not returned, the one that was begun first, with its slot if that is known."""
        calls = list(Naming.open.copy().values())
        # A call of a slot is within the call of its vector environment.
        return next((call for call in reversed(calls) if call.env is calls[0].env), None)


def name_of(env: Any) -> str:
    """An environment's id, or its class where it was made without one."""
    spec = env.unwrapped.spec
    return spec.id if spec else type(env.unwrapped).__name__


def with_task(
    error: EnvironmentFailureError, tasks: np.ndarray, first: int, episodes: int
) -> Exception:
    """The same failure, with its task named.

    Args:
        error: what the vector environment of some of the tasks raised.
        tasks: of its slots, ``[M, D]``.
        first: row of the meta-batch that they begin with.
        episodes: slots of each task.

    Returns:
        A NonFiniteError where the environment raised a FloatingPointError: its numbers broke down.
    """
    if error.slot is None:
        return error
    row, episode = divmod(error.slot, episodes)
    task = first + row
    message = f"{error} (task {task} {tasks[row].tolist()}, episode {episode})"
    if isinstance(error.__cause__, FloatingPointError):
        return NonFiniteError(message, task)
    return EnvironmentFailureError(message, error.slot)
