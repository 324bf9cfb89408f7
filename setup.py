"""Compiles the kernels; everything else about the package is in setup.cfg."""

from pathlib import Path

from setuptools import Extension, setup

FOLDER = "metarl/kernels"

# Optional: where there is no compiler that knows vectors, torch takes their place.
setup(
    ext_modules=[
        Extension(
            "metarl.kernels._compiled",
            [f"{FOLDER}/compiled.c"],
            depends=[str(each) for each in sorted(Path(FOLDER).glob("*.h"))],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
