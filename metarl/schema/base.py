"""What the sections of a configuration are made of: kinds of values, and what they have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# YAML gives lists; a frozen configuration holds tuples.
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
Rates = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
Name = Annotated[str, Field(min_length=1)]


def _path_name(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("path_name", "must be a path, in which no character is NUL")
    return text


PathName = Annotated[Name, AfterValidator(_path_name)]
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]


def impossible(key: str, message: str) -> PydanticCustomError:
    """The error of settings that are each valid but do not fit together.

    Args:
        key: dotted key of the setting to change, relative to the section that raises.
        message: what is wrong with it and what to do, to be read after "<key> is <value>, but".
    """
    return PydanticCustomError("impossible", "{message}", {"key": key, "message": message})


class Section(BaseModel):
    """A group of settings: nothing unknown, converted, NaN or infinite, and never changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
