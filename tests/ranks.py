# SPDX-License-Identifier: Apache-2.0
"""The same function in several processes that find one another, as torchrun would start them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.patience import PATIENCE_S
from tests.reliability.forks import forked_process
from trainer.distributed import World


def spawned_process(work: Callable[..., Any], *args: Any) -> Any:
    """work(*args) in a process that has imported nothing before, started; it costs seconds."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args, daemon=True)
    process.start()
    return process


def in_ranks(work: Callable[..., Any], size: int, folder: Path, *args: Any, start: Callable[..., Any] = forked_process) -> list[Any]:
    """work(world, *args) of each of `size` processes, by rank; what it returns is kept in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [start(_rank, rank, size, port, folder, work, args) for rank in range(size)]
    for process in ranks:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in ranks] == [0] * size
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(size)]


def _rank(rank: int, size: int, port: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), **place)
    with World.start(timeout_min=PATIENCE_S / 60) as world:
        torch.save(work(world, *args), folder / f"rank{rank}.pt")
