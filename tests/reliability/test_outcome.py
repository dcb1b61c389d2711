# SPDX-License-Identifier: Apache-2.0
"""The exit status tells the truth: skipped steps, memory, devices, writers, and faults of our own."""

import json
import os

import pytest
import torch

import train
import trainer.priors
from arguments.exit_codes import FINISHED, REFUSED, STOPPED
from scene.gaussian_model import GaussianModel
from tests.reliability.crash import words
from tests.reliability.hooks import at_step, faulty_calls, with_state
from tests.reliability.processes import PLAIN
from tests.reliability.same_run import log_lines
from trainer import careful_writes
from trainer.checkpoints import newest_good, numbered
from trainer.outputs import RunOutputs
from utils.failures import machine_failure
from utils.video import SegmentedVideo

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(12, "Cannot allocate memory"),
]
DEVICE_LOST = [
    RuntimeError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"
    ),
    torch.AcceleratorError("CUDA error: unspecified launch failure", 719),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
OURS = [
    ValueError("shapes differ"),
    ZeroDivisionError("division by zero"),
    RuntimeError("size mismatch"),
    KeyError("xyz"),
]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}-{str(error)[:12]}"


@pytest.mark.parametrize(
    ("faulty", "told"),
    [
        ((6,), "1 of 6 steps was skipped, the last one included, most often because guidance is not finite (1 time)"),
        (
            (5, 6),
            "2 of 6 steps were skipped, the last one included, most often because guidance is not finite (2 times)",
        ),
        ((1, 2, 3, 4), "4 of 6 steps were skipped, most often because guidance is not finite (4 times)"),
        ((1, 3, 5), None),
    ],
    ids=str,
)
def test_skipped_steps_are_no_success(tmp_path, monkeypatch, capsys, faulty, told) -> None:
    """Most of them, or the last one; half of them with the last one sound are."""
    faulty_calls(monkeypatch, lambda step: step in faulty)
    argv = words(tmp_path / "run", sds=True, **PLAIN | {"iterations": 6})
    assert train.main(argv) == (STOPPED if told else FINISHED)
    printed = capsys.readouterr()
    assert ("finished_utc" in json.loads((tmp_path / "run" / "run.json").read_text())) == (told is None)
    assert ("The scene is in" in printed.out) == (told is None) and (told or "") in printed.err
    if told is not None:
        assert "Lower the learning rates" in printed.err and printed.err.count("train.py: ") == 1


def test_learning_rates_that_destroy_everything_are_no_success(tmp_path, capsys) -> None:
    names = ("position_lr_init", "position_lr_final", "feature_lr", "opacity_lr", "scaling_lr", "rotation_lr")
    rates = dict.fromkeys(names, 1e6)
    assert train.main(words(tmp_path / "run", **PLAIN | rates | {"iterations": 12})) == STOPPED
    assert "The scene is in" not in (printed := capsys.readouterr()).out and "skipped" in printed.err
    assert "finished_utc" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_resumed_run_counts_the_steps_before(tmp_path, monkeypatch, capsys) -> None:
    """Five of eight: four before the signal, one after it."""
    faulty_calls(monkeypatch, lambda step: step in (1, 2, 3, 4, 7))
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), 15))
    settings = PLAIN | {"iterations": 8, "resume": "auto", "sds": True}
    assert train.main(words(tmp_path / "run", **settings)) == 75
    assert train.main(words(tmp_path / "run", **settings)) == STOPPED
    assert "5 of 8 steps were skipped" in capsys.readouterr().err


def _raise(error: BaseException):
    def act(*args, **options):
        raise error

    return act


def test_an_error_is_of_memory_of_the_device_or_ours() -> None:
    found = [[failure and failure.of_memory for failure in map(machine_failure, errors)] for errors in (NO_MEMORY, DEVICE_LOST, OURS)]
    assert found == [[True] * len(NO_MEMORY), [False] * len(DEVICE_LOST), [None] * len(OURS)]


@pytest.mark.parametrize("error", NO_MEMORY[:2], ids=_named)
def test_no_memory_in_a_step(tmp_path, monkeypatch, capsys, error) -> None:
    at_step(monkeypatch, 4, _raise(error))
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    told = capsys.readouterr().err
    assert told.count("train.py: ") == 1 and "out of memory (" in told and "Traceback" not in told
    assert "image_h: 8 (saves about " in told and f"Resume with --resume {tmp_path / 'run'}" in told
    assert numbered(tmp_path / "run")[0][0] == 3
    assert (tmp_path / "run" / "point_cloud" / "iteration_3" / "point_cloud.ply").is_file()
    assert train.main(["--resume", str(tmp_path / "run")]) == FINISHED
    assert [line["iteration"] for line in log_lines(tmp_path / "run")] == list(range(1, 7))


@pytest.mark.parametrize("error", DEVICE_LOST[:1], ids=_named)
def test_a_device_that_fails(tmp_path, monkeypatch, capsys, error) -> None:
    at_step(monkeypatch, 4, _raise(error))
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    told = capsys.readouterr().err
    assert f"the device failed ({str(error).splitlines()[0]})" in told and "CUDA_LAUNCH_BLOCKING=1" in told
    assert told.count("\n") - told.count("\r") <= 2 and numbered(tmp_path / "run")[0][0] == 3


@pytest.mark.parametrize("error", OURS[1:3], ids=_named)
def test_a_fault_of_ours_in_a_step_loses_nothing_and_is_shown(tmp_path, monkeypatch, error) -> None:
    at_step(monkeypatch, 4, _raise(error))
    with pytest.raises(type(error)):
        train.main(words(tmp_path / "run", **PLAIN))
    assert numbered(tmp_path / "run")[0][0] == 3 == len(log_lines(tmp_path / "run"))
    assert (tmp_path / "run" / "point_cloud" / "iteration_3" / "point_cloud.ply").is_file()


def test_a_fault_in_the_step_that_raises_the_sh_degree_leaves_the_degree_before_it(tmp_path, monkeypatch) -> None:
    """The checkpoint is of the step before, and the resumed run raises it once."""
    degrees, sound = [], train.compute_gradients

    def raises_at_3(state, *args):
        degrees.append(state.gaussians.active_sh_degree)
        state.iteration += 497
        try:
            return sound(state, *args)
        finally:
            state.iteration -= 497
            if state.iteration == 3 and len(degrees) == 3:
                raise ZeroDivisionError

    monkeypatch.setattr(train, "compute_gradients", raises_at_3)
    settings = PLAIN | {"iterations": 4}
    with pytest.raises(ZeroDivisionError):
        train.main(words(tmp_path / "run", **settings, sh_degree=2))
    path, tree = newest_good(tmp_path / "run", pytest.fail)
    assert path.name == "chkpnt2.safetensors" and tree["train"]["gaussians"]["active_sh_degree"] == 0
    assert train.main(["--resume", str(tmp_path / "run")]) == FINISHED
    assert degrees == [0, 0, 0, 0, 1]


def test_a_half_made_update_is_not_continued_from(tmp_path, monkeypatch) -> None:
    with_state(monkeypatch, 4, lambda state: monkeypatch.setattr(state.optimizer, "step", _raise(ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        train.main(words(tmp_path / "run", **PLAIN | {"checkpoint_every": 2}))
    assert numbered(tmp_path / "run")[0][0] == 2
    assert (tmp_path / "run" / "point_cloud" / "iteration_4" / "point_cloud.ply").is_file()


@pytest.mark.parametrize("where", ["load_prior", "Scene"])
def test_no_memory_during_start_up(tmp_path, monkeypatch, capsys, where) -> None:
    import trainer.state

    monkeypatch.setattr(trainer.priors if where == "load_prior" else trainer.state, where, _raise(NO_MEMORY[0]))
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    assert "train.py: out of memory (CUDA out of memory." in capsys.readouterr().err


def test_a_disk_that_fails_during_start_up(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trainer.priors, "load_prior", _raise(OSError(28, "No space left on device")))
    assert train.main(words(tmp_path / "run", **PLAIN)) == REFUSED
    assert "train.py: the run cannot start ([Errno 28] No space left on device)" in capsys.readouterr().err


WRITERS = {
    "scene": (GaussianModel, "save_ply"),
    "test views": (RunOutputs, "test_views"),
    "turntable": (RunOutputs, "videos"),
    "panel": (train, "guidance_panel"),
    "region maps": (RunOutputs, "region_maps"),
    "process video": (SegmentedVideo, "_write"),
    "frame of the process video": (RunOutputs, "_frame"),
}
OUTPUTS = PLAIN | {
    "iterations": 3, "vis_interval": 2, "save_process": True, "pro_frames_num": 3, "CoGradParams.enabled": True, "save_video": True,
    "view_px": 16,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "error"), [*((kind, NO_MEMORY[0]) for kind in WRITERS), ("scene", OURS[0])], ids=str)
def test_a_writer_that_fails_costs_its_output(tmp_path, monkeypatch, capsys, kind, error) -> None:
    owner, name = WRITERS[kind]
    monkeypatch.setattr(owner, name, _raise(error))
    if kind != "turntable":
        monkeypatch.setattr(RunOutputs, "videos", lambda self, iteration: self.folder)
    assert train.main(words(tmp_path / "run", **OUTPUTS)) == STOPPED
    printed = capsys.readouterr()
    assert f"{kind} could not be written ({type(error).__name__}: {error}" in printed.out
    assert f"step 3 is done, but not all could be written: {kind} (" in printed.err
    assert "finished_utc" not in json.loads((tmp_path / "run" / "run.json").read_text())
    assert (
        len(log_lines(tmp_path / "run")) == 3
        and newest_good(tmp_path / "run", pytest.fail)[0].name == "chkpnt3.safetensors"
    )


@pytest.mark.parametrize("error", [NO_MEMORY[0], MemoryError(), NO_MEMORY[2]], ids=_named)
def test_a_checkpoint_that_does_not_fit_into_memory_is_a_failed_write(tmp_path, monkeypatch, capsys, error) -> None:
    import trainer.checkpoints

    sound, calls = trainer.checkpoints.save_tree, []

    def save(*args) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error
        sound(*args)

    monkeypatch.setattr(trainer.checkpoints, "save_tree", save)
    assert train.main(words(tmp_path / "run", **PLAIN | {"checkpoint_every": 2})) == FINISHED
    told = capsys.readouterr().out
    assert told.count("checkpoint could not be written") == told.count("checkpoint can be written again") == 1
    assert "checkpoint" in careful_writes.TRIED_AGAIN and numbered(tmp_path / "run")[0][0] == 6


def test_a_refusal_after_everything_is_open_stands_on_its_own_line(tmp_path, monkeypatch, capsys) -> None:
    """Its log is closed, and no progress bar was drawn."""
    from trainer.recovery import Recovery

    assert train.main(words(tmp_path / "run", **PLAIN | {"iterations": 1})) == FINISHED
    capsys.readouterr()
    monkeypatch.setattr(Recovery, "resume", _raise(ValueError("the checkpoint is of another kind")))
    assert train.main(words(tmp_path / "run", **PLAIN | {"iterations": 2, "resume": "auto"})) == REFUSED
    assert capsys.readouterr().err.endswith("train.py: the checkpoint is of another kind\n")
    opened = [os.readlink(link.path) for link in os.scandir("/proc/self/fd") if os.path.lexists(link.path)]
    assert not any(str(tmp_path) in path for path in opened)
