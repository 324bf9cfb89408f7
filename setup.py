"""Compiles the kernels; everything else about the package is in setup.cfg."""

import runpy

from setuptools import Extension, setup

sources = runpy.run_path("metarl/kernels/sources.py")

# Optional: where there is no compiler that knows vectors, torch takes their place.
setup(
    ext_modules=[
        Extension(
            "metarl.kernels._compiled",
            ["metarl/kernels/compiled.c"],
            depends=[f"metarl/kernels/{path.name}" for path in sources["headers"]()],
            define_macros=[("SOURCES", f"{sources['fingerprint']()}ULL")],
            extra_compile_args=["-O3", "-g0"],
            optional=True,
        )
    ]
)
