"""Reading and writing the settings of a run: YAML 1.2 <-> `metarl.schema.Config`.

Every mistake is one sentence that names the file (or the command line), the setting, its value and
what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from metarl.mistakes import COMMAND_LINE, Keys, sentence, shown
from metarl.schema import Config, config_class
from metarl.yaml12 import YAMLTextError, parse, printable, render

__all__ = ["Config", "ConfigError", "changes", "dump", "flat", "load"]

MAX_BYTES = 65_536


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
        raise ConfigError(sentence(error, settings, str(path), changed)) from None


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
            f"{COMMAND_LINE}: {shown(override)} is not a setting; write KEY=VALUE, such as seed=2."
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
                f"{shown(section)}."
            )
    section[name] = value
    return (*sections, name)


def _parse(text: str, source: str) -> Any:
    try:
        return parse(text)
    except YAMLTextError as error:
        raise ConfigError(f"{source}: {error}") from None
