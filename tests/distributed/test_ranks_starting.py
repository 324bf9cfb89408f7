"""How a run finds its processes: whether there are others, where they meet, which GPU is whose."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import launching
import pytest
import torch.distributed as dist

from metarl import system
from metarl.distributed import processes
from metarl.distributed.ranks import ALONE, connected, own_gpu
from metarl.errors import UserError
from metarl.train import main


def test_a_single_process_starts_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert connected() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert connected() is ALONE
    code = "import sys, metarl.train, metarl.distributed.ranks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=launching.ROOT)
    assert not dist.is_initialized()


def test_processes_without_an_address_are_refused_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main([str(launching.ROOT / "configs" / "nav2d.yaml")]) == 2
    said = capsys.readouterr().err
    assert "MASTER_ADDR" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("visible", "own"),
    [
        (None, "2"),
        ("", ""),
        ("5", ""),
        ("4,5,6,7", "6"),
        ("4,5", ""),
        ("GPU-a,GPU-b,GPU-c", "GPU-c"),
    ],
)
def test_each_process_of_a_host_sees_one_gpu_of_its_own_or_none(visible, own):
    given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert own_gpu({"LOCAL_RANK": "2"} | given) == own


@pytest.fixture
def with_gpus(monkeypatch):
    """What ``work`` does in ranks, of which each sees the GPU that is named, or none."""
    own = threading.local()
    monkeypatch.setattr(system, "gpu", lambda: own.gpu)

    def run(gpus, work):
        def begin(ranks):
            own.gpu = gpus[ranks.rank]
            return work(ranks)

        return launching.in_ranks(len(gpus), begin)

    return run


@pytest.mark.parametrize(
    ("gpus", "device"),
    [
        (("A", None), "cpu"),
        (("A", "B"), "cpu"),
        ((None, None), "auto"),
        (("A", "A"), "auto"),
        (("A", "A"), "cuda"),
    ],
)
def test_gpus_matter_where_they_are_used(with_gpus, gpus, device):
    with_gpus(gpus, lambda ranks: (ranks.check_alike(), ranks.check_gpus(device)))


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (("A", None, None), r"3 processes on \S+, 1 GPU: start 1 there, or set device=cpu\."),
        (("A", "A", None), r"3 processes on \S+, 2 GPUs: start 2 there, or set device=cpu\."),
        (("A", "A", "B"), r"rank 2 on \S+ has gpu B, but rank 0 has A; "),
    ],
)
def test_processes_without_a_gpu_of_their_own_are_refused(with_gpus, gpus, said, device):
    def work(ranks):
        with pytest.raises(UserError, match=said):
            ranks.check_gpus(device)

    with_gpus(gpus, work)


def test_a_host_without_any_gpu_is_named(with_gpus):
    def work(ranks):
        ranks.vigil.people[1] = ranks.vigil.people[1]._replace(host="bare")
        with pytest.raises(UserError, match=r"1 processes on bare, 0 GPUs: start none there"):
            ranks.check_gpus("auto")

    with_gpus(("A", None), work)


def test_a_process_that_never_starts_is_not_waited_for_long(monkeypatch):
    """Under torchrun, whose store is there before the processes are."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "START", timedelta(seconds=0.5))
    with pytest.raises(UserError, match=r"rank 0 of 2 cannot meet the others at 127\.0\.0\.1:"):
        processes.connect()
    assert not dist.is_initialized()
    assert not [each for each in threading.enumerate() if each.name == "vigil 0"]
