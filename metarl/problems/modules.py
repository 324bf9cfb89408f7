"""Modules that several threads call with parameters of their own."""

from __future__ import annotations

import copy
import threading

from torch import nn


class PerThread:
    """A copy of a module for each thread: `functional_call` exchanges a module's parameters while it runs.

    Args:
        module: what is copied, at a thread's first call.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._local = module, threading.local()

    def __call__(self) -> nn.Module:
        """The calling thread's."""
        if not hasattr(self._local, "module"):
            self._local.module = copy.deepcopy(self._module)
        return self._local.module
