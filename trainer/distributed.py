# SPDX-License-Identifier: Apache-2.0
"""Several processes, one run: `torchrun --nproc_per_node=K train.py ...` splits the views of a step.

Every process draws the same random numbers for all B views, works on its own shard of them, and gets the results of the
others by `World.gather`; from there on all do the same. A world of one process copies and waits for nothing.
"""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from utils.program import STOPPED, command_of
from utils.shard import Shard
from utils.wording import counted

TIMEOUT_MIN = 30.0  # rank 0 loads, renders videos, writes; the others wait that long
PARENT_POLL_S, GRACE_S = 1.0, 600.0
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class PeerLost(RuntimeError):
    """Another process of the run ended, or did not answer in time."""


@dataclass(frozen=True)
class World:
    """The processes of a run: this one is `rank` of `size`, the `local_rank`-th of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None

    @classmethod
    def start(cls, environ: Mapping[str, str] = os.environ, timeout_min: float = TIMEOUT_MIN) -> Self:
        """The world that torchrun's variables describe; a process alone without them.

        Raises ValueError for variables that contradict one another, PeerLost when the others do not come.
        """
        if environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        if "TORCHELASTIC_RUN_ID" in environ:
            _stop_with_parent(is_worker=environ.get("RANK", "0") != "0")
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environ]
        if missing:
            raise ValueError(
                f"WORLD_SIZE is {environ['WORLD_SIZE']} but {' and '.join(missing)} not set; "
                "start several processes with torchrun --nproc_per_node=K train.py ..., or unset WORLD_SIZE"
            )
        # Its functions take the group that exists when it is imported for their default. Imported later, it would keep
        # the group's threads to the interpreter's end, where one that lets go of a tensor aborts the process.
        import torch.distributed.nn.functional  # noqa: F401

        patience = timedelta(minutes=timeout_min)
        store, rank, size = _or_peer_lost(lambda: next(iter(rendezvous("env://", timeout=patience))))
        _or_peer_lost(lambda: dist.init_process_group(store=store, rank=rank, world_size=size, timeout=patience))
        return cls(rank, size, int(environ.get("LOCAL_RANK", rank)), store)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, total: int) -> Shard:
        """This process's part of `total` views; the parts differ by one view at most.

        Raises ValueError when there are more processes than views.
        """
        if self.size > total:
            raise ValueError(
                f"{self.size} processes were started for {counted(total, 'view')} a step; "
                f"start at most {total}, or raise GuidanceParams.C_batch_size"
            )
        return Shard.of_rank(self.rank, self.size, total)

    def gather(self, x: Tensor, shard: Shard) -> Tensor:
        """All processes' x [len(shard), ...] as one [shard.total, ...], in the order of the views."""
        if self.size == 1:
            return x
        most = -(-shard.total // self.size)
        padded = x if len(x) == most else torch.cat([x, x[:1].expand(most - len(x), *x.shape[1:])])
        every = x.new_empty(self.size * most, *x.shape[1:])
        _or_peer_lost(lambda: dist.all_gather_single(every, padded.contiguous()))
        if shard.total == len(every):
            return every
        counts = [len(Shard.of_rank(rank, self.size, shard.total)) for rank in range(self.size)]
        return torch.cat([part[:count] for part, count in zip(every.split(most), counts)])

    def broadcast(self, message: Any = None) -> Any:
        """Rank 0's `message` on every process; its tensors are to be on the CPU."""
        if self.size == 1:
            return message
        messages = [message]
        _or_peer_lost(lambda: dist.broadcast_object_list(messages, src=0, device=torch.device("cpu")))
        return messages[0]

    def device_name(self, name: str, gpus: int) -> str:
        """The device that a process takes when the config says `name`: on GPUs each its own, of `gpus` in the machine.

        Raises ValueError for one named GPU, or for fewer GPUs than processes.
        """
        if self.size == 1 or name == "cpu" or (name == "auto" and not gpus):
            return name
        if ":" in name:
            raise ValueError(
                f"device {name} given for {self.size} processes; use --device cuda, each takes its own GPU"
            )
        if gpus and self.local_rank >= gpus:
            raise ValueError(
                f"{self.local_rank + 1} or more processes were started on a machine with {counted(gpus, 'GPU')}; "
                f"use --nproc_per_node={gpus}, or --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def __enter__(self) -> Self:
        """From here on warnings are printed once, by rank 0."""
        if not self.is_main:
            logging.disable(logging.WARNING)
            warnings.simplefilter("ignore")
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Leaves the group; an error that Python will print needs no second report by the others."""
        if kind is not None:
            self.is_first_to_report()
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def is_first_to_report(self) -> bool:
        """Whether no other process has reported yet why the run ends: one sentence is enough."""
        try:
            return self.store is None or self.store.add("reported", 1) == 1
        except RuntimeError:  # the store went with the process that kept it
            return True

    def exit_with(self, status: int, why: object) -> int:
        """Prints why the run ends, unless another of its processes has; returns the exit status."""
        if self.is_first_to_report():
            print(f"{command_of('train.py')}: {why}", file=sys.stderr)
        return status


ALONE = World()


def _stop_with_parent(is_worker: bool) -> None:
    """When torchrun is gone nobody ends its processes: rank 0 then stops as after a SIGTERM, and the workers with it.

    A worker that still waits after GRACE_S, for a rank 0 that cannot answer, exits.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        if not is_worker:
            logger.warning("torchrun has ended; the run stops after this step")
        os.kill(os.getpid(), signal.SIGTERM)
        if is_worker:
            time.sleep(GRACE_S)
            os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def _or_peer_lost(call: Callable[[], Result]) -> Result:
    """The result of a collective call. Raises PeerLost."""
    try:
        return call()
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PeerLost(
            f"another process of this run ended or did not answer within {TIMEOUT_MIN:g} minutes ({reason}); "
            "its own message says why, if it had time to leave one"
        ) from error
