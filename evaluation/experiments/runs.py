# SPDX-License-Identifier: Apache-2.0
"""Many runs of train.py: each in a process of its own, each leaving one JSON file by which a sweep resumes."""

import functools
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from scene.ply_file import compress
from trainer.disk_use import remove
from trainer.run_lock import FolderInUse, RunLock
from trainer.run_log import read_steps
from trainer.run_records import read_object
from utils.general_utils import write_text_atomically

ROOT = Path(__file__).resolve().parents[2]
PRINTED, BEGUN = "printed.txt", "begun.json"
MAX_RESULT_BYTES = 1 << 26
BULKY = (  # the cloud, of which all that is scored can be made again, stays
    PRINTED,
    BEGUN,
    "events.out.tfevents.*",
    "log.jsonl",
    "init_points3d.ply",
    "train_process/*",
    "chkpnt*",
    "point_cloud/*/point_cloud_rgb.txt",
    "point_cloud/*/.*.part",
    "test_six_views/1_iteration/*",
)
LATE_IMPORTS = (  # what train.py, its libraries and a measure import when they need it, together seconds
    "train",
    "torch._dynamo",
    "toy.ideal",
    "guidance.linear_autoencoder",
    "guidance.sd_utils",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.clip.modeling_clip",
    "evaluation.known_truth",
)
Result = dict[str, Any]
Log = list[dict[str, Any]]
Measure = Callable[[Path, Log], Result]
"""(run folder, records of log.jsonl) -> what the run's JSON says of it."""


class RunFailed(RuntimeError):
    """A run that did not finish; the message ends with the last line that it printed."""


OnEnd = Callable[["Run", Result | RunFailed], None]
Pass = Callable[[Sequence["Run"], "Sweep", OnEnd], dict[str, RunFailed]]
"""Makes every run once, reports each end, and returns the failures by name."""


@dataclass(frozen=True)
class Run:
    """One run: its name, the words of train.py's command line, and what its JSON repeats."""

    name: str
    flags: tuple[str, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """How runs are made: where to, how many at a time, on how many threads each, on which of `gpus` in turn.

    train: train.py's main; measure: what a run's JSON says of it. Functions that pickle can name.
    gpus: names for CUDA_VISIBLE_DEVICES; none: whatever train.py finds.
    resume: a stopped run resumes from its last checkpoint; else it starts again and writes none.
    """

    out: Path
    train: Callable[[list[str]], int]
    measure: Measure
    jobs: int = 1
    threads: int = 1
    gpus: tuple[str, ...] = ()
    retries: int = 0
    resume: bool = False

    def folder(self, name: str) -> Path:
        return self.out / "runs" / name

    def path(self, name: str) -> Path:
        return self.out / f"{name}.json"


def run_all(runs: Sequence[Run], sweep: Sweep, on_end: OnEnd, one_pass: Pass | None = None) -> list[str]:
    """Makes every run whose JSON is not there yet; returns one sentence for each that failed `retries` + 1 times.

    `on_end` is called at each end, of a failure that will be tried again too. `one_pass`: where it is done; default: on
    this machine. Raises ValueError when a run was made or begun with other flags. After Ctrl-C nothing new is started.
    """
    left = waiting(runs, sweep)
    failures: dict[str, RunFailed] = {}
    for _ in range(sweep.retries + 1):
        failures = (one_pass or local_pass)(left, sweep, on_end)
        left = [run for run in left if run.name in failures]
    return [f"{name}: {failure}" for name, failure in failures.items()]


def waiting(runs: Sequence[Run], sweep: Sweep) -> list[Run]:
    """The runs that have no JSON yet, each once.

    ValueError for one that was made, or will be resumed, with other flags, and for two that differ under one name.
    """
    by_name: dict[str, Run] = {}
    for run in runs:
        if by_name.setdefault(run.name, run).flags != run.flags:  # two processes in one folder
            raise ValueError(f"two different runs would be called {run.name}; expected objects that differ in a letter")
    return [run for run in by_name.values() if not _is_done(run, sweep)]


def local_pass(runs: Sequence[Run], sweep: Sweep, on_end: OnEnd) -> dict[str, RunFailed]:
    """Runs them all once on this machine; the failures by name."""
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(sweep.jobs):
        slots.put(slot)

    def one(run: Run) -> Result | RunFailed:
        slot = slots.get()
        try:
            return run_one(run, sweep, slot)
        except RunFailed as failure:
            return failure
        finally:
            slots.put(slot)

    failures = {}
    if runs:
        _forkserver()  # in this thread, for a Ctrl-C while it starts
    with ThreadPoolExecutor(sweep.jobs) as pool:
        running = {pool.submit(one, run): run for run in runs}
        try:
            for future in as_completed(running):
                run, outcome = running[future], future.result()
                if isinstance(outcome, RunFailed):
                    failures[run.name] = outcome
                on_end(run, outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in running):
                for process in multiprocessing.active_children():
                    process.terminate()  # ends a run after its step
                time.sleep(0.2)
            raise
    return failures


def run_one(run: Run, sweep: Sweep, slot: int = 0) -> Result:
    """Trains, measures, writes the run's JSON and returns what is in it. Raises RunFailed.

    The process is forked from a server that has done the imports, half of a short run's time. KeyboardInterrupt here
    ends it after its step.
    """
    folder, path = sweep.folder(run.name), sweep.path(run.name)
    if _is_done(run, sweep):  # by another call meanwhile
        return read_object(path, MAX_RESULT_BYTES)
    if sweep.resume:
        refuse_if_in_use(folder)
    else:
        remove_run(folder)  # of a run that was stopped
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder / BEGUN, {"flags": list(run.flags)})
    process = _forkserver().Process(target=_train_and_measure, args=(run, sweep, slot), daemon=True)
    process.start()
    try:
        while process.exitcode is None:
            process.join(0.2)  # in slices: the interrupt that Ray sends wakes no thread that waits
    except KeyboardInterrupt:
        process.terminate()
        process.join()
        raise
    if process.exitcode != 0:
        printed = (folder / PRINTED).read_text(encoding="utf-8").strip() if (folder / PRINTED).is_file() else ""
        last = (printed or "nothing printed").splitlines()[-1]
        is_trained = read_object(folder / BEGUN).get("trained")
        what = "the run is trained, its measuring" if is_trained else "train.py"
        raise RunFailed(f"{what} ended with status {process.exitcode}: {last}")
    return json.loads(path.read_text(encoding="utf-8"))


def refuse_if_in_use(folder: Path) -> None:
    """RunFailed where a process is writing in the folder of a run."""
    try:
        RunLock.refuse_if_held(folder)
    except FolderInUse as error:
        raise RunFailed(IN_USE.format(folder)) from error


def remove_run(folder: Path) -> None:
    """Removes what there is of a run. RunFailed where a process is writing in its folder."""
    try:
        if folder.exists():
            remove(folder)
    except FolderInUse as error:
        raise RunFailed(IN_USE.format(folder)) from error


IN_USE = "another process is at work in {}, its run.lock says which; wait for it or stop it, then run this again"


@functools.cache
def _forkserver() -> ForkServerContext:
    """The server of this process, which begins its imports here.

    A Ctrl-C reaches every process of a terminal. The server ignores it from its start on, for its imports end with a
    stack trace otherwise; the main thread, which waits for them here, does not.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # for the server; its children are given their number
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LATE_IMPORTS, __name__])
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
        first = context.Process(target=_nothing, daemon=True)
        first.start()
        first.join()
    return context


def _nothing() -> None:
    """What the server is asked first, to wait for it."""


def _train_and_measure(run: Run, sweep: Sweep, slot: int) -> None:
    """The body of a run's process; what it prints goes to a file."""
    _end_with_parent()
    folder, path = sweep.folder(run.name).resolve(), sweep.path(run.name).resolve()
    with (folder / PRINTED).open("w", encoding="utf-8") as printed:
        os.dup2(printed.fileno(), 1), os.dup2(printed.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the server ignores
    if sweep.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = sweep.gpus[slot % len(sweep.gpus)]  # before anything asks for a GPU
    torch.set_num_threads(sweep.threads)
    is_resumed = sweep.resume and any(folder.glob("chkpnt*"))
    start, cpu_start = time.perf_counter(), time.process_time()
    resume = ["--resume", "auto"] if sweep.resume else ["--checkpoint_every", "0"]
    status = sweep.train([*run.flags, "--model_path", str(folder), *resume])
    if status != 0:
        sys.exit(status)
    write_result(folder / BEGUN, {"flags": list(run.flags), "trained": True})
    seconds = {"train_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu_start}
    lock = RunLock(folder)  # train.py's is released
    result = {**run.facts, "flags": list(run.flags)}
    if not is_resumed:  # else they would be of the last process alone
        result |= {name: round(value, 1) for name, value in seconds.items()}
    result |= sweep.measure(folder, read_steps(folder / "log.jsonl"))
    for cloud in list(folder.glob("point_cloud/*/point_cloud.ply")):
        compress(cloud)
    write_result(path, result)
    for bulky in [bulky for pattern in BULKY for bulky in folder.glob(pattern)]:  # last: a stop here costs no run
        bulky.unlink()
    lock.release()


def _end_with_parent() -> None:
    """Ends this process when the one that asked for it is gone, were it killed: two might write into one folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_result(path: Path, result: Result) -> None:
    """A run's JSON, the old one or the whole new one."""
    write_text_atomically(path, json.dumps(result, indent=1) + "\n")


def read_results(out: Path, names: Iterable[str]) -> list[Result]:
    """The JSON files of those runs that have one, each with its `name`. Raises ValueError for one that is not valid."""
    paths = {name: out / f"{name}.json" for name in names}
    return [{"name": name, **read_object(path, MAX_RESULT_BYTES)} for name, path in paths.items() if path.is_file()]


def read_folder(out: Path) -> list[Result]:
    """Every finished run of a folder, by seed and name; a suffix of `with_flags` may follow the seed."""
    found = ((re.findall(r"-seed(\d+)(?=-|$)", path.stem), path.stem) for path in out.glob("*-seed*.json"))
    return read_results(out, [name for _, name in sorted((int(seeds[-1]), name) for seeds, name in found if seeds)])


def _is_done(run: Run, sweep: Sweep) -> bool:
    path, begun = sweep.path(run.name), sweep.folder(run.name) / BEGUN
    if path.is_file():
        _check_flags(path, run, path)
        return True
    if sweep.resume and begun.is_file():
        _check_flags(begun, run, begun.parent)
    return False


def _check_flags(path: Path, run: Run, made: Path) -> None:
    """ValueError unless a file names the flags of a run; `made` is what to delete if it does not."""
    before = read_object(path, MAX_RESULT_BYTES).get("flags")
    if not isinstance(before, list):
        raise ValueError(f"{path} is not the result of a run: it names no flags; delete {made} to make the run again")
    if before != list(run.flags):
        pairs = [Counter(zip(words[::2], words[1::2])) for words in (before, run.flags)]
        changed = [f"{name} {value}" for name, value in (pairs[0] - pairs[1]) + (pairs[1] - pairs[0])]
        raise ValueError(f"{made} was made with other flags ({', '.join(changed)}); give another --out or delete it")
