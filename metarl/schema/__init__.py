"""The settings of a run: names, types, ranges, defaults and meanings.

`metarl.config` reads and writes them as YAML. A new kind of problem, network or outer method is a new class in its
module, added to the union there: ``kind`` or ``method`` tells the classes apart. What depends on the kind of problem
is a class of configuration, in `metarl.schema.config` and `metarl.schema.examples`; here is which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from metarl.schema.config import Config, RLConfig
from metarl.schema.examples import (
    ComparisonConfig,
    EmbeddingConfig,
    ExamplesConfig,
    FineTuningConfig,
    LSTMConfig,
    SupervisedConfig,
)
from metarl.schema.learning import PPO, SGD, TRPO, VPG, Adam, Comparison, FineTuning, Inner

__all__ = [
    "PPO",
    "SGD",
    "TRPO",
    "VPG",
    "Adam",
    "ComparisonConfig",
    "Config",
    "EmbeddingConfig",
    "ExamplesConfig",
    "FineTuning",
    "FineTuningConfig",
    "Inner",
    "LSTMConfig",
    "RLConfig",
    "SupervisedConfig",
]

RULES: dict[str, type[Config]] = {
    "gradient": SupervisedConfig,
    **dict.fromkeys(get_args(Comparison.model_fields["rule"].annotation), ComparisonConfig),
    "fine_tuning": FineTuningConfig,
    "lstm": LSTMConfig,
}
"""The class of configuration of each ``inner.rule``, where examples are learned from."""

CONFIGS: dict[str, type[Config]] = {
    "rl": RLConfig,
    "sinusoid": SupervisedConfig,
    "images": SupervisedConfig,
}
"""The class of configuration of each ``problem.kind``."""


def config_class(settings: Any) -> type[Config]:
    """The class that a file's settings are of; that of reinforcement learning where they do not say."""
    found = CONFIGS.get(_value(settings, "problem", "kind"), RLConfig)
    if found is RLConfig:
        return found
    return RULES.get(_value(settings, "inner", "rule"), found)


def config_of(text: bytes) -> Config:
    """The configuration that ``model_dump_json`` wrote."""
    return config_class(json.loads(text)).model_validate_json(text)


def _value(settings: Any, *keys: str) -> str:
    """The text that a file's settings have at these keys; empty where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, str) else ""
