"""The implementations of the kernels that this machine can run."""

from __future__ import annotations

from metarl.kernels import compiled

BEST = compiled.LIBRARY
INSTRUCTIONS = {"avx512": ("avx512", "avx2"), "avx2": ("avx2",), "neon": ("neon",)}
SETS = ("torch", *(INSTRUCTIONS[BEST.instructions] if BEST else ()))
