# SPDX-License-Identifier: Apache-2.0
"""Shares of views, devices of processes, and what is said when a world cannot be. Two real processes: test_exchange.py."""

import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.ranks import in_ranks, spawned_process
from trainer.distributed import ALONE, PeerLost, World
from utils.shard import Shard


@pytest.mark.parametrize("total", range(1, 9))
def test_shares_cover_all_views_once_and_evenly(total) -> None:
    for size in range(1, total + 1):
        shares = [World(rank, size).shard(total) for rank in range(size)]
        assert [view for share in shares for view in share.of(range(total))] == list(range(total))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_more_processes_than_views_are_refused() -> None:
    message = r"5 processes were started for 4 views a step; start at most 4, or raise GuidanceParams.C_batch_size"
    with pytest.raises(ValueError, match=message):
        World(0, 5).shard(4)


def test_shares_of_a_draw_are_the_draw() -> None:
    like = torch.zeros(1, 4, 3)
    whole = Shard.whole(3).randn(torch.zeros(3, 4, 3), torch.Generator().manual_seed(5))
    parts = [World(rank, 3).shard(3).randn(like, torch.Generator().manual_seed(5)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole, torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(5)))


def test_one_process_copies_nothing() -> None:
    x = torch.zeros(3)
    assert World.start({}) == World.start({"WORLD_SIZE": "1"}) == ALONE and ALONE.is_main
    with ALONE as world:
        assert world.gather(x, Shard.whole(3)) is x and world.broadcast(x) is x and world.is_first_to_report()


def test_half_of_torchruns_variables_are_told() -> None:
    message = "WORLD_SIZE is 2 but MASTER_ADDR and MASTER_PORT not set; start several processes with torchrun"
    with pytest.raises(ValueError, match=message):
        World.start({"WORLD_SIZE": "2", "RANK": "0"})


def test_others_that_do_not_come_are_told(monkeypatch) -> None:
    environ = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        PeerLost, match=r"another process of this run ended or did not answer within .* its own message"
    ):
        World.start(environ, timeout_min=0.01)


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [("auto", 4, "cuda:1"), ("cuda", 4, "cuda:1"), ("auto", 0, "auto"), ("cpu", 4, "cpu"), ("cuda", 0, "cuda:1")],
)
def test_each_process_has_its_own_gpu(name, gpus, device) -> None:
    assert World(3, 4, local_rank=1).device_name(name, gpus) == device
    assert ALONE.device_name(name, gpus) == name


def test_gpus_that_cannot_be_shared_out_are_told() -> None:
    with pytest.raises(
        ValueError, match="device cuda:1 given for 4 processes; use --device cuda, each takes its own GPU"
    ):
        World(0, 4).device_name("cuda:1", 4)
    message = r"4 or more processes were started on a machine with 2 GPUs; use --nproc_per_node=2, or --device cpu"
    with pytest.raises(ValueError, match=message):
        World(3, 4, local_rank=3).device_name("auto", 2)


def test_followers_do_not_repeat_warnings(caplog) -> None:
    try:
        with warnings.catch_warnings(record=True) as caught, World(1, 2):
            logging.getLogger("guidance").warning("said by the leader")
            warnings.warn("this too", stacklevel=1)
        assert not caught and not caplog.records
    finally:
        logging.disable(logging.NOTSET)


def _left(world: World) -> list[str]:
    """Names of the threads after the world has ended, with what torch and diffusers import late in between."""
    world.broadcast("go")
    import torch.distributed.nn.functional  # noqa: F401

    with world:
        world.broadcast("end")
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are read from /proc")
def test_no_thread_outlives_the_world(tmp_path) -> None:
    """One that lets go of a tensor while Python ends aborts the process: seen once in twenty runs of a busy machine."""
    assert not [name for names in in_ranks(_left, 2, tmp_path, start=spawned_process) for name in names if "gloo" in name]
