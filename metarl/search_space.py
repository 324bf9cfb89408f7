"""What a sweep tries: ranges and choices of settings, as the command line has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from metarl.errors import UserError
from metarl.yaml12 import YAMLTextError, parse, render

RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>.+?)(?P<log>:log)?")


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, whole ones where both ends are; evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool

    @property
    def examples(self) -> list[str]:
        """Both ends, as settings have them."""
        return [str(self.low), str(self.high)]

    def suggest(self, trial: Any, key: str) -> None:
        """Choose a value for the trial."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        suggest(key, self.low, self.high, log=self.log)


class Choice(NamedTuple):
    """One of several values, each as YAML on one line."""

    values: tuple[str, ...]

    @property
    def examples(self) -> list[str]:
        """All of them."""
        return list(self.values)

    def suggest(self, trial: Any, key: str) -> None:
        """Choose a value for the trial."""
        trial.suggest_categorical(key, self.values)


Space = dict[str, Range | Choice]
"""The settings that are tried, by dotted key."""


def read_space(settings: Sequence[str]) -> Space:
    """Read ``key=LOW..HIGH``, ``key=LOW..HIGH:log`` and ``key=[A, B, ...]``.

    Raises:
        UserError: one is neither, or stands twice.
    """
    space: Space = {}
    for text in settings:
        key, _, given = text.partition("=")
        if key in space:
            raise UserError(f"--set {key}: stands twice; give it once.")
        space[key] = _read_domain(text, given)
    return space


def _read_domain(text: str, given: str) -> Range | Choice:
    listed = given.lstrip().startswith("[")
    if not listed and (matched := RANGE.fullmatch(given)):
        low, high = (_read(text, matched[name]) for name in ("low", "high"))
        numbers = all(type(each) in (int, float) for each in (low, high))
        if not numbers or not low < high or (matched["log"] and low <= 0):
            raise UserError(
                f"--set {text}: the ends must be numbers, LOW < HIGH, with :log above 0."
            )
        return Range(low, high, matched["log"] is not None)
    values = _read(text, given)
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(
            f"--set {text}: write KEY=LOW..HIGH, KEY=LOW..HIGH:log, or two choices or more, "
            "KEY=[A, B]."
        )
    return Choice(tuple(map(render, values)))


def _read(text: str, given: str) -> Any:
    try:
        return parse(given)
    except YAMLTextError as error:
        raise UserError(f"--set {text}: {error}") from None
