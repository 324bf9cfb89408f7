"""What is wrong with a setting, as one sentence: where it stands, its value, what it must be, the nearest name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from metarl.schema import CONFIGS, RULES, config_class
from metarl.yaml12 import printable

COMMAND_LINE = "command line"
SECTION, LIST = "a section of 'key: value' lines", "a list, such as [1, 2]"
NUMBER, COUNT = "a finite number without quotes", "a whole number without quotes or decimal point"
KINDS = {
    "model_type": SECTION,
    "model_attributes_type": SECTION,
    "dict_type": SECTION,
    "tuple_type": LIST,
    "list_type": LIST,
    "too_short": "a list that is not empty; leave it out for the default",
    "bool_type": "true or false",
    "int_type": COUNT,
    "float_type": NUMBER,
    "finite_number": NUMBER,
    "string_type": "text; quote it",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "module:Name-v0, such as envs:HalfCheetahVel-v0",
}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
CHOICES = {("problem", "kind"): CONFIGS, ("inner", "rule"): RULES}
"""Settings that choose the class of configuration, and what there is to choose from."""
Keys = tuple[str | int, ...]


def sentence(
    error: ValidationError, settings: dict[str, Any], file: str, changed: Sequence[Keys]
) -> str:
    """The first mistake as a sentence; a wrong choice or an unknown key first, it may be why another is missing.

    Args:
        error: all that pydantic found.
        settings: of the file, with what the command line replaced.
        file: its name.
        changed: the keys that the command line named.
    """
    mistakes = error.errors(include_url=False)
    mistakes.sort(key=lambda each: (not _is_choice(each), each["type"] != "extra_forbidden"))
    first = mistakes[0]
    path = _path(first, settings)
    said = [_expectation(each) for each in mistakes if _path(each, settings) == path]
    overridden = any(path[: len(key)] == key or key[: len(path)] == path for key in changed)
    source = COMMAND_LINE if overridden else file
    name = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        return f"{source}: {printable(name)} is not a setting; {_nearest(name, settings)}"
    if first["type"] in ("missing", "union_tag_not_found"):
        meaning = _known(config_class(settings), settings)[name]
        return f"{source}: {name} is missing; add it: {meaning}"
    value = shown(_look_up(settings, path))
    must = " or ".join(dict.fromkeys(said)).replace(" or must be ", " or ")
    return f"{source}: {printable(name)} is {value}, but {must}."


def shown(value: Any) -> str:
    """A value as it stands in a sentence: JSON on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(mistake: Mapping[str, Any], settings: Any) -> Keys:
    """Where a mistake is in the file: pydantic's location less the branches of unions it tried."""
    path: list[str | int] = []
    *rest, last = mistake["loc"] or ("",)
    context = mistake.get("ctx", {})
    for part in [*rest, last]:
        inside = _look_up(settings, (*path, part), missing=Ellipsis)
        if inside is not Ellipsis or (part == last and mistake["type"] == "missing"):
            path.append(part)
    if mistake["type"].startswith("union_tag"):
        path.append(context["discriminator"].strip("'"))
    if mistake["type"] == "impossible":
        path.extend(context["key"].split("."))
    return tuple(path)


def _look_up(value: Any, path: Keys, missing: Any = None) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return missing
    return value


def _expectation(mistake: Mapping[str, Any]) -> str:
    """What a value must be, to be read after "but"."""
    context = mistake.get("ctx", {})
    match mistake["type"]:
        case "impossible":
            return str(context["message"])
        case "union_tag_invalid":
            return f"must be one of {context['expected_tags']}"
        case "literal_error" if _is_choice(mistake):
            return f"must be one of {', '.join(map(repr, CHOICES[mistake['loc']]))}"
        case "literal_error":
            return f"must be {context['expected']}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as bound:
            key, words = BOUNDS[bound]
            return f"must be {words} {str(context[key]).removesuffix('.0')}"
        case kind if kind in KINDS:
            return f"must be {KINDS[kind]}"
        case _:
            return str(mistake["msg"]).replace("Input should", "must").replace("should", "must")


def _is_choice(mistake: Mapping[str, Any]) -> bool:
    """Whether it is a wrong choice of what decides which settings there are."""
    return mistake["type"] == "literal_error" and mistake["loc"] in CHOICES


def _nearest(name: str, settings: dict[str, Any]) -> str:
    """Advice on an unknown key: the nearest name beside it, else elsewhere, else all beside it."""
    section, _, last = name.rpartition(".")
    if any(name in _known(kind, None) for kinds in CHOICES.values() for kind in kinds.values()):
        return (
            f"it belongs to another kind of {section}; take it out, or replace the whole section, "
            f"on the command line by {section}={{...}}."
        )
    known = {key: key.rpartition(".") for key in _known(config_class(settings), settings)}
    beside = [key for key, (parent, _, _) in known.items() if parent == section]
    for candidates in (beside, list(known)):
        names = {known[key][2]: key for key in reversed(candidates)}
        if close := difflib.get_close_matches(last, names, n=1, cutoff=0.6):
            return f"did you mean {names[close[0]]}?"
    return f"take it out; there are {', '.join(beside)}."


def _known(model: type[BaseModel], values: Any, prefix: str = "") -> dict[str, str]:
    """Every dotted key there is, with its meaning; of a union, those of the member chosen."""
    known: dict[str, str] = {}
    for name, field in model.model_fields.items():
        known[prefix + name] = field.description or ""
        inside = values.get(name) if isinstance(values, dict) else None
        for member in (field.annotation, *get_args(field.annotation)):
            if (
                isinstance(member, type)
                and issubclass(member, BaseModel)
                and _chosen(member, field, inside)
            ):
                known |= _known(member, inside, f"{prefix}{name}.")
    return known


def _chosen(member: type[BaseModel], field: FieldInfo, values: Any) -> bool:
    if not isinstance(field.discriminator, str):
        return True
    tags = get_args(member.model_fields[field.discriminator].annotation)
    return not isinstance(values, dict) or values.get(field.discriminator, tags[0]) in tags
