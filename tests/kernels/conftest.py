"""Each implementation of the kernels in turn."""

from __future__ import annotations

import pytest
from instruction_sets import SETS

from metarl.kernels import compiled


@pytest.fixture(params=SETS)
def kernels(request, monkeypatch):
    chosen = None if request.param == "torch" else compiled.load(compiled.built(), request.param)
    monkeypatch.setattr(compiled, "LIBRARY", chosen)
    return request.param
