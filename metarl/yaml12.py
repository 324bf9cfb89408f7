"""A reader of YAML 1.2 for plain values only: what settings need, and nothing that surprises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
)
from ruamel.yaml.nodes import Node, ScalarNode, SequenceNode

MAX_DEPTH = 16
_CORE_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_WORD = re.compile(r"[A-Za-z_][\w./-]*(:[\w./-]+)*", re.ASCII)


class YAMLTextError(ValueError):
    """Text that is not read; the message says where and what to do, but not which file it is."""


def parse(text: str) -> Any:
    """Read one document of mappings, lists, text, numbers, true, false and null.

    Args:
        text: YAML 1.2; a date is text, and so is ``on``.

    Returns:
        The plain value; None for an empty document.

    Raises:
        YAMLTextError: it is not YAML, a key stands twice or is no text, or there is something
            that settings never need: an anchor or alias (they can expand without bound), a tag
            (it can run code), more than `MAX_DEPTH` levels.
    """
    try:
        # Events come before any recursion, so neither depth nor aliases can do harm here.
        for line, trap in _traps(YAML(typ="safe", pure=True).parse(text)):
            raise YAMLTextError(f"line {line}: {trap}.")
        yaml = YAML(typ="safe", pure=True)
        node = yaml.compose(text)
        return None if node is None else _plain(node, yaml, "")
    except MarkedYAMLError as error:
        raise YAMLTextError(_explain(error)) from None
    except (YAMLError, OverflowError) as error:
        raise YAMLTextError(f"this is not YAML ({' '.join(str(error).split())}).") from None


def render(value: Any) -> str:
    """A plain value on one line, as YAML that `parse` reads back to an equal one.

    Text is quoted and escaped like JSON's unless it is a simple word: ruamel.yaml writes some text,
    such as ``?0``, in a way that it cannot read.
    """
    match value:
        case str():
            plain = _WORD.fullmatch(value) and parse(value) == value
            return value if plain else _quoted(value)
        case list() | tuple():
            return f"[{', '.join(map(render, value))}]"
        case dict():
            return (
                f"{{{', '.join(f'{render(key)}: {render(item)}' for key, item in value.items())}}}"
            )
        case _:
            return json.dumps(value, allow_nan=False)


def printable(text: str) -> str:
    """The text for a message of one line: as it is, or quoted where it holds a line break and the like."""
    return text if text.isprintable() else _quoted(text)


def _quoted(text: str) -> str:
    return f'"{"".join(map(_escape, text))}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _traps(events: Iterator[Event]) -> Iterator[tuple[int, str]]:
    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            yield line, f"nested deeper than {MAX_DEPTH} levels; no setting is that deep"
        elif isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            yield (
                line,
                "anchors and aliases (& and *) are not read; write the value out, or quote it",
            )
        elif isinstance(event, NodeEvent) and getattr(event, "tag", None):
            yield line, "tags (!) are not read; write the value without one, or quote it"
        elif isinstance(event, DocumentStartEvent) and event.version:
            yield line, "%YAML is not read, this is YAML 1.2; take the line out"


def _plain(node: Node, yaml: YAML, key: str) -> Any:
    if isinstance(node, SequenceNode):
        return [_plain(item, yaml, _join(key, str(i))) for i, item in enumerate(node.value)]
    if isinstance(node, ScalarNode):
        return _scalar(node, yaml, key)
    values: dict[str, Any] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, ScalarNode) or name.tag in _CORE_TAGS:
            raise YAMLTextError(
                f"line {line}: a key that is not text; write 'key: value', or quote the key."
            )
        inside = _join(key, name.value)
        if name.value in values:
            raise YAMLTextError(f"line {line}: {printable(inside)} stands twice; keep one.")
        values[name.value] = _plain(value, yaml, inside)
    return values


def _scalar(node: ScalarNode, yaml: YAML, key: str) -> Any:
    if node.tag not in _CORE_TAGS:
        return node.value
    try:
        return yaml.constructor.construct_object(node)
    except ValueError:
        line = node.start_mark.line + 1
        raise YAMLTextError(
            f"line {line}: {printable(key) or 'this'} is no number that can be read; quote it."
        ) from None


def _explain(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}: " if mark else ""
    problem = str(error.problem or error.context).strip().splitlines()[0]
    if "'\\t'" in problem:
        return f"{where}a tab where YAML wants spaces; indent with spaces."
    return f"{where}this is not YAML ({problem}); correct it, or quote it if it is text."


def _join(key: str, part: str) -> str:
    return f"{key}.{part}" if key else part
