"""What the system says of its processor, from files as the kernel writes them."""

from __future__ import annotations

import platform

from metarl.processor import described

FILE = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC: 9755

processor\t: 1
vendor_id\t: Other
"""


def test_it_is_what_the_first_core_says(tmp_path):
    (tmp_path / "cpuinfo").write_text(FILE)
    assert described("vendor_id", tmp_path / "cpuinfo") == "AuthenticAMD"
    assert described("model name", tmp_path / "cpuinfo") == "AMD EPYC: 9755"


def test_without_a_file_or_its_line_python_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert described("vendor_id", tmp_path / "none") == "arm64"
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert described("vendor_id", tmp_path / "cpuinfo") == "arm64"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert described("vendor_id", tmp_path / "none") == "arm"
