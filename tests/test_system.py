"""What is recorded of the machine and the code."""

from __future__ import annotations

import subprocess

from metarl import system


def test_the_commit_is_recorded_where_there_is_one(tmp_path):
    assert system._commit(tmp_path) == {"commit": None, "dirty": None}
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m a"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert system._commit(tmp_path) == {"commit": head.stdout.strip(), "dirty": False}
    (tmp_path / "file").write_text("a")
    subprocess.run(["git", "-C", str(tmp_path), "add", "file"], check=True)
    assert system._commit(tmp_path)["dirty"] is True
