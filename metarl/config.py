"""Reading and writing the settings of a run: YAML 1.2 <-> `metarl.schema.Config`.

Every mistake is one sentence that names the file (or the command line), the setting, its value and
what to do.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from metarl.schema import CONFIGS, RULES, Config, config_class
from metarl.yaml12 import YAMLTextError, parse, printable, render

__all__ = ["Config", "ConfigError", "changes", "dump", "flat", "load"]

MAX_BYTES = 65_536
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


class ConfigError(Exception):
    """A setting that cannot be used; the message is one sentence for the person who wrote it."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        path: YAML 1.2 file.
        overrides: settings that replace the file's, as ``dotted.key=value`` with the value in YAML.

    Returns:
        The validated, frozen configuration.

    Raises:
        ConfigError: the file cannot be read, or a setting cannot be used.
    """
    settings = _read(Path(path))
    changed = [_apply(override, settings) for override in overrides]
    try:
        return config_class(settings).model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_sentence(error, settings, str(path), changed)) from None


def dump(config: Config, explain: bool = False) -> str:
    """Write every setting, defaults included, as YAML that `load` reads back to an equal one.

    Args:
        config: what to write.
        explain: put the meaning of each setting above it, as a comment.
    """
    return "\n".join(_lines(config, explain)) + "\n"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections as one, by dotted keys.

    Args:
        settings: as of ``model_dump``.
        prefix: of the keys.
    """
    values: dict[str, Any] = {}
    for name, value in settings.items():
        inside = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        values |= {prefix + name: value} if inside is None else inside
    return values


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by dotted keys: both values, null where there was or is no such setting."""
    old, new = (flat(each.model_dump(mode="json")) for each in (before, after))
    both = {key: (old.get(key), new.get(key)) for key in old | new}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _lines(section: BaseModel, explain: bool) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if explain:
            yield f"# {field.description}"
        if isinstance(value, BaseModel):
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(value, explain))
        else:
            yield f"{name}: {render(value)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; check the path, configs/ holds the examples."
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder; name a YAML file in it.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path}: cannot be read ({reason}); name a readable YAML file."
        ) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"{path}: larger than {MAX_BYTES} bytes, so hardly a configuration; name another file."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8."
        ) from None
    settings = _parse(text, str(path))
    if settings is None:
        raise ConfigError(f"{path}: the file is empty; write settings as 'key: value' lines.")
    if not isinstance(settings, dict):
        kind = "list" if isinstance(settings, list) else "single value"
        raise ConfigError(
            f"{path}: holds a {kind} at the top; write settings as 'key: value' lines."
        )
    return settings


def _apply(override: str, settings: dict[str, Any]) -> Keys:
    """Set one ``dotted.key=value`` in place; return the key's path."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(
            f"{COMMAND_LINE}: {_show(override)} is not a setting; write KEY=VALUE, such as seed=2."
        )
    *sections, name = key.split(".")
    value = _parse(text, f"{COMMAND_LINE}: {printable(key)}")
    section = settings
    for depth, part in enumerate(sections):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            parent = printable(".".join(sections[: depth + 1]))
            raise ConfigError(
                f"{COMMAND_LINE}: {printable(key)} cannot be set, because {parent} is "
                f"{_show(section)}."
            )
    section[name] = value
    return (*sections, name)


def _parse(text: str, source: str) -> Any:
    try:
        return parse(text)
    except YAMLTextError as error:
        raise ConfigError(f"{source}: {error}") from None


def _sentence(
    error: ValidationError, settings: dict[str, Any], file: str, changed: Sequence[Keys]
) -> str:
    """The first mistake as a sentence; a wrong choice or an unknown key first, it may be why another is missing."""
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
    value = _show(_look_up(settings, path))
    must = " or ".join(dict.fromkeys(said)).replace(" or must be ", " or ")
    return f"{source}: {printable(name)} is {value}, but {must}."


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


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
