"""What it takes to meta-learn one's own module on one's own data, without a configuration, in one place.

The README has an example.
"""

from metarl.data import Examples
from metarl.functional.adapt import InnerUpdate
from metarl.outer import SGD, Adam, Descent, Schedule
from metarl.problems.learners import Adaptation
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Key, Stream, generator

__all__ = [
    "SGD",
    "Adam",
    "Adaptation",
    "Descent",
    "Examples",
    "InnerUpdate",
    "Key",
    "Schedule",
    "Stream",
    "SupervisedProblem",
    "generator",
]
