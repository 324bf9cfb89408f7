"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017) that can be relied on."""

__version__ = "0.1.0"
