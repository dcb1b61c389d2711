# SPDX-License-Identifier: Apache-2.0
"""A sweep on a Ray cluster that is already running: a run is a task, on one GPU where it needs one.

Every node has this checkout at the same path, with its environment. A node that sees the sweep's folder writes there;
from any other the run's folder comes back through Ray's object store. Ray is imported only here, and only for --ray.
"""

import contextlib
import os
import platform
import re
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluation.experiments.runs import (
    ROOT,
    OnEnd,
    Result,
    Run,
    RunFailed,
    Sweep,
    remove_run,
    run_one,
    write_result,
)
from utils.missing_module import how_to_install
from utils.revision import code_revision

CONNECT_S, PROBE_S, CANCEL_S, TICK_S = 5.0, 120.0, 60.0, 2.0
LOST = 3
"""A task whose node or worker process was lost is retried so often; then the run counts as failed."""
Files = dict[str, bytes]
"""Path in a run's folder -> content."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    name: str
    cpus: int
    gpus: int
    key: str  # Ray's

    def slots(self, threads: int, gpu: bool) -> int:
        """Runs that fit here at a time."""
        return min(self.cpus // threads, self.gpus) if gpu else self.cpus // threads


@dataclass(frozen=True)
class Cluster:
    """A cluster that is connected to. `gpu`: a run needs one; `report` takes a line about a lost node."""

    ray: ModuleType
    nodes: list[Node]
    gpu: bool
    report: Callable[[str], None]

    def __str__(self) -> str:
        cores, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        return f"a Ray cluster of {len(self.nodes)} nodes, {cores} cores and {gpus} GPUs"

    def threads(self) -> int:
        """Of a run: the cores that each GPU has on the node where they are fewest; 1 without a GPU."""
        return max(min(node.cpus // node.gpus for node in self.nodes if node.gpus), 1) if self.gpu else 1

    def slots(self, threads: int) -> int:
        """Runs at a time."""
        return sum(node.slots(threads, self.gpu) for node in self.nodes)

    def run_pass(self, runs: Sequence[Run], sweep: Sweep, on_end: OnEnd) -> dict[str, RunFailed]:
        """Makes them all once, `sweep.jobs` at a time at most; the failures by name.

        After Ctrl-C nothing new is started, and what runs ends after its step; a checkpoint stays in a shared folder.
        """
        sweep = replace(sweep, out=sweep.out.resolve())
        task = self.ray.remote(work).options(num_cpus=sweep.threads, num_gpus=int(self.gpu), max_retries=LOST)
        waiting, alive = list(runs), {node.key for node in self.nodes}
        running: dict[Any, Run] = {}
        failures: dict[str, RunFailed] = {}
        with _marker(sweep.out) as marker:
            try:
                while waiting or running:
                    while waiting and len(running) < sweep.jobs:
                        run = waiting.pop(0)
                        running[task.remote(run, sweep, marker)] = run
                    for ref in self.ray.wait(list(running), timeout=TICK_S)[0]:
                        run = running.pop(ref)
                        outcome = self._outcome(ref, run, sweep)
                        if isinstance(outcome, RunFailed):
                            failures[run.name] = outcome
                        on_end(run, outcome)
                    alive = self._report_lost(alive)
            except BaseException:
                for ref in running:
                    self.ray.cancel(ref)
                if running:
                    self.ray.wait(list(running), num_returns=len(running), timeout=CANCEL_S)
                raise
        return failures

    def _outcome(self, ref: Any, run: Run, sweep: Sweep) -> Result | RunFailed:
        """What a task returned, its files written where a local run leaves them, and then the run's JSON."""
        try:
            result, files = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            return RunFailed(f"Ray: {_last_line(error)}")
        if isinstance(result, str):
            return RunFailed(result)
        if files is not None:
            try:
                write_files(sweep.folder(run.name), files)
            except RunFailed as failure:
                return failure
        write_result(sweep.path(run.name), result)
        return result

    def _report_lost(self, before: set[str]) -> set[str]:
        """The nodes that are alive."""
        now = {node.key for node in _nodes(self.ray)}
        for node in self.nodes:
            if node.key in before - now:
                self.report(f"node {node.name} is lost; its runs restart on other nodes, nodes left: {len(now)}")
        return now


@contextlib.contextmanager
def connected(address: str, gpu: bool, report: Callable[[str], None]) -> Iterator[Cluster]:
    """Connects to `address`: auto (the cluster that this machine is part of), HOST:PORT, or ray://HOST:PORT.

    ValueError where Ray is missing, no cluster answers, no node has the GPU that runs need (`gpu`), or a node has
    another revision of the code. No cluster is ever started.
    """
    ray = _imported()
    _check_address(address)
    try:
        here = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(address, runtime_env=here, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray raises nearly anything
        hint = HEAD if address == "auto" else JOIN
        raise ValueError(f"--ray {address}: {_last_line(error)}; {hint}") from error
    try:
        nodes = _nodes(ray)
        if not any(node.slots(1, gpu) for node in nodes):
            wants = "core and a GPU" if gpu else "core"
            have = ", ".join(f"{node.name}: {node.cpus} cores, {node.gpus} GPUs" for node in nodes)
            raise ValueError(f"--ray {address}: a run needs a {wants} and no node has that ({have}); add one that has")
        _check_revisions(ray, nodes)
        yield Cluster(ray, nodes, gpu, report)
    finally:
        ray.shutdown()


JOIN = (
    "start this machine's node with `ray start --address=HEAD:6379`; a cluster with a token needs the same "
    "RAY_AUTH_MODE and token here"
)
HEAD = "start one with `ray start --head --disable-usage-stats`, or give its HOST:PORT"


def _imported() -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of a change in a later release
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--ray needs Ray, which is not installed: {how_to_install('ray')}") from error
    return ray


def _check_address(address: str) -> None:
    """ValueError at once where no server listens; Ray itself tries for two minutes."""
    if address == "auto":
        return
    found = re.fullmatch(r"(?:ray://)?\[?([\w.:-]+?)\]?:(\d{1,5})", address, re.ASCII)
    if not found:
        raise ValueError(f"--ray {address!r} given; expected auto, HOST:PORT (such as head:6379) or ray://HOST:PORT")
    try:
        socket.create_connection((found[1], int(found[2])), CONNECT_S).close()
    except TimeoutError as error:
        raise ValueError(
            f"--ray {address}: no answer within {CONNECT_S:g} s; that machine may be slow, or a firewall in between: "
            "give the same command again, or another address"
        ) from error
    except (OSError, OverflowError) as error:
        raise ValueError(f"--ray {address}: no cluster answers there ({error}); {HEAD}") from error


def _nodes(ray: ModuleType) -> list[Node]:
    """Those that are alive."""
    alive = [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [
        Node(node["NodeManagerHostname"], int(has.get("CPU", 0)), int(has.get("GPU", 0)), node["NodeID"])
        for node, has in alive
    ]


def _check_revisions(ray: ModuleType, nodes: Sequence[Node]) -> None:
    """ValueError for a node that lacks this checkout, has another revision of it, or does not answer in time."""
    probe, ours = ray.remote(code_revision), code_revision()
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    revisions = [probe.options(num_cpus=0, scheduling_strategy=place(node.key, soft=False)).remote() for node in nodes]
    for node, ref in zip(nodes, revisions):
        try:
            theirs = ray.get(ref, timeout=PROBE_S)
        except ray.exceptions.GetTimeoutError as error:
            raise ValueError(
                f"node {node.name} did not answer within {PROBE_S:g} s, so that it is not known whether it can run "
                "this checkout; `ray status` says how busy the cluster is: wait and give the same command again, or "
                "take that node out with `ray stop` there"
            ) from error
        except ray.exceptions.RayError as error:
            raise ValueError(
                f"node {node.name} cannot run this checkout ({_last_line(error)}); every node needs it at {ROOT}, and "
                "`ray start` from the environment that make setup makes"
            ) from error
        if theirs != ours:
            raise ValueError(f"node {node.name} has revision {theirs} of the code, this machine {ours}; use one")


@contextlib.contextmanager
def _marker(folder: Path) -> Iterator[Path]:
    """A file by which a node knows the folder of results."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".ray-{uuid.uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def work(run: Run, sweep: Sweep, marker: Path) -> tuple[Result | str, Files | None]:
    """The body of a task: a run's result, or why it failed; its files if this node does not see the sweep's folder."""
    import ray

    ids = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    sweep = replace(sweep, gpus=tuple(ids))
    try:
        if marker.is_file():
            return run_one(run, sweep), None
        with tempfile.TemporaryDirectory(prefix="cograd3d-") as folder:
            away = replace(sweep, out=Path(folder))
            return run_one(run, away), files_of(away.folder(run.name))
    except RunFailed as failure:
        return f"{platform.node()}: {failure}", None


def files_of(folder: Path) -> Files:
    """All that a run has left."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path, files: Files) -> None:
    """Writes them in place of what is in the folder. RunFailed where a process is writing there."""
    remove_run(folder)  # of a run that was stopped
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _last_line(error: BaseException) -> str:
    """Of a message that may be a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip().rstrip(".")
