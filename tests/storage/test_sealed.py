"""A sealed manifest comes back as it was, or not at all."""

from __future__ import annotations

import hashlib
import json

import pytest

from metarl.storage.sealed import seal, unseal

VALUES = {"format": 1, "names": ["α", "b"], "score": None, "nested": {"x": 0.1}}


def test_what_is_sealed_comes_back_in_its_order():
    assert unseal(seal(VALUES)) == VALUES
    assert list(unseal(seal(VALUES)) or ()) == list(VALUES)


def test_the_seal_is_the_sum_of_the_json_without_it():
    expected = hashlib.sha256(json.dumps(VALUES, indent=1).encode()).hexdigest()
    assert json.loads(seal(VALUES)) == VALUES | {"sha256": expected}


def test_every_changed_byte_is_noticed():
    content = seal(VALUES)
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1
        assert unseal(bytes(altered)) is None
        assert unseal(content[:position]) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{}", b'"sha256"', b"\xff", b"[" * 100_000])
def test_what_was_never_sealed_is_nothing(content):
    assert unseal(content) is None
