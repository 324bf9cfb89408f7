"""JSON that carries its own SHA-256: it comes back as it was written, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> bytes:
    """JSON as every file of this package has it."""
    return json.dumps(value, indent=1).encode()


def seal(values: Mapping[str, Any]) -> bytes:
    """The values as JSON, with a last entry ``sha256``: that of the JSON without it."""
    return to_json({**values, "sha256": hashlib.sha256(to_json(values)).hexdigest()})


def unseal(content: bytes) -> dict[str, Any] | None:
    """What `seal` was given; None where a byte differs from what it returned."""
    try:
        values = json.loads(content)
        del values["sha256"]
        # Comparing all bytes also notices changes that JSON does not, such as those of white space.
        return dict(values) if content == seal(values) else None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
