# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, executed by the shim: any order of execution, every barrier, overflow, batches, the shim itself.

The golden, law, reference, batch and message tests run on these kernels too (fixture `each_backend`).
"""

import ctypes

import pytest
import shim_build
import torch
from conftest import compiled
from raster_scenes import Result, Scene, random_scene, run_batch, run_extension, settings_of, three_views

from diff_gaussian_rasterization import GaussianRasterizer, _cuda

SEEDS = (1, 2, 3, 4)


def assert_same_bits(a: Result, b: Result) -> None:
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.radii, b.radii)
    assert all(torch.equal(gradient, b.gradients[name]) for name, gradient in a.gradients.items())


def assert_close_gradients(a: Result, b: Result, tolerance: float) -> None:
    for name, gradient in a.gradients.items():
        assert (gradient - b.gradients[name]).abs().max() <= tolerance * gradient.abs().max(), name


def crowded_scene() -> Scene:
    """Every loop more than once: batches in a tile, chunks in a scan, blocks in a sort, Gaussians of 25 tiles."""
    scene = random_scene(40, 1300, 66, 70, sh_degree=1, spread=0.25, scale=0.01, opacity=(0.02, 0.5))
    scene.inputs["scales"][:12] *= 30
    return scene


@pytest.fixture
def one_list(monkeypatch):
    """Buffers so small that every view falls back to one list."""
    monkeypatch.setattr(_cuda.PairCount, "capacity", lambda self, n_splats: n_splats)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_blocks_warps_and_lanes_changes_no_bit(cuda_kernels, seed):
    scene = crowded_scene()
    natural = run_extension(scene)
    with shim_build.shuffled(cuda_kernels, seed):
        assert_same_bits(natural, run_extension(scene))


def many_small_views() -> list[Scene]:
    """16 views of 600 Gaussians each, for the loops over blocks of Gaussians."""
    scenes = [random_scene(60, n=600, height=8, width=32) for _ in range(_cuda.MAX_VIEWS)]
    for k, scene in enumerate(scenes):
        scene.view.scale_modifier = 0.2 + 0.02 * k
    return scenes


def orders_memory_only(barrier: str) -> bool:
    """Whether the source says so of this barrier: then no order of execution shows it, but ThreadSanitizer does."""
    file, line = barrier.split(":")
    return "// orders memory only" in (shim_build.RASTERIZER.parent / file).read_text().splitlines()[int(line) - 1]


def test_every_barrier_is_needed(cuda_kernels):
    """Each barrier of the kernels removed in turn: some order of execution must notice it."""
    scene, views = crowded_scene(), many_small_views()
    natural, natural_batch = run_extension(scene), run_batch(views, views[0].inputs)[0]

    def is_right() -> bool:
        for seed in (*SEEDS, 0):
            with shim_build.shuffled(cuda_kernels, seed):
                assert_same_bits(natural, run_extension(scene))
        with shim_build.shuffled(cuda_kernels, SEEDS[0]):
            assert torch.equal(run_batch(views, views[0].inputs)[0], natural_batch)
        return True

    assert not shim_build.caught(cuda_kernels, "none", is_right)
    found = shim_build.barriers(cuda_kernels)
    assert len(found) > 10
    missed = [barrier for barrier in found if not shim_build.caught(cuda_kernels, barrier, is_right)]
    assert [barrier for barrier in missed if not orders_memory_only(barrier)] == []


# ------------------------------------------------------------------------------------------------ overflow


@pytest.mark.parametrize("seed", [0, *SEEDS[:3]])
def test_pairs_that_do_not_fit_change_nothing_but_speed(cuda_kernels, monkeypatch, seed):
    """One list per view: the same image; gradients up to the order of float additions (measured: 3e-7)."""
    scene = crowded_scene()
    expected = run_extension(scene)
    monkeypatch.setattr(_cuda.PairCount, "capacity", lambda self, n_splats: n_splats)
    with shim_build.shuffled(cuda_kernels, seed):
        result = run_extension(scene)
    assert torch.equal(expected.images, result.images)
    assert torch.equal(expected.radii, result.radii)
    assert_close_gradients(expected, result, 2e-6)


def test_the_next_call_has_room(cuda_kernels):
    """The first call guesses too low, sends its count, and the second one fits."""
    scene = random_scene(41, n=200, height=100, width=100, scale=0.2)
    capacities = []
    for _ in range(2):
        rasterizer = GaussianRasterizer(settings_of(scene.view))
        rasterizer(means2D=torch.zeros(200, 3), **scene.inputs)
        counts = next(iter(_cuda._pairs.values()))
        capacities.append(counts.capacity(200))
    n_pairs = int(rasterizer.counts["n_pairs"])
    assert n_pairs > 1024 >= 4 * 200
    assert list(_cuda._pairs.values()) == [counts]
    assert capacities == [counts.capacity(200)] * 2 and 1.25 * n_pairs <= capacities[0] < 1.5 * n_pairs


def test_capacity_shrinks_slowly_and_always_holds_one_pair_per_gaussian():
    counts = _cuda.PairCount(torch.device("cpu"))
    assert counts.capacity(100) == 1024 and counts.capacity(5000) == 20480
    counts.arrived[0] = 1_000_000
    large = counts.capacity(10)
    counts.arrived[0] = 0
    assert 0.9 * large < counts.capacity(10) <= large
    assert min(counts.capacity(10) for _ in range(2000)) == 10
    assert counts.capacity(3_000_000) >= 3_000_000


# ------------------------------------------------------------------------------------------------ batches


def test_a_batch_that_does_not_fit(cuda_kernels, one_list):
    scenes = three_views()
    alone = [run_extension(s) for s in scenes]
    inputs = {name: torch.stack([s.inputs[name] for s in scenes]) for name in scenes[0].inputs}
    images, _, gradients, _ = run_batch(scenes, inputs)
    assert torch.equal(images, torch.stack([r.images for r in alone]))
    for name in scenes[0].inputs:
        expected = torch.stack([r.gradients[name] for r in alone])
        torch.testing.assert_close(gradients[name], expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))


def test_too_many_views_at_once(cuda_kernels):
    scene = random_scene(1, n=4, height=8, width=8)
    with pytest.raises(ValueError, match="17 views in one batch, expected at most 16: split the batch"):
        run_batch([scene] * 17, scene.inputs)


def test_images_that_are_too_large_are_an_error_not_a_crash(cuda_kernels):
    batch = _cuda.Batch(n_gaussians=1, pair_capacity=1, n_views=2, width_px=65536, height_px=65536)
    assert cuda_kernels.dgr_cuda_buffer_bytes(ctypes.byref(batch), ctypes.byref(_cuda.BufferBytes())) == 1
    assert b"more than 2^24 tiles" in cuda_kernels.dgr_cuda_last_error()


# ------------------------------------------------------------------------------------------------ the shim


@pytest.fixture(scope="module")
def faulty():
    library = shim_build.steer(ctypes.CDLL(str(compiled(shim_build.FAULTY))))
    library.run.restype = ctypes.c_char_p
    return library


def run_faulty(library: ctypes.CDLL, name: str) -> tuple[str, list[int]]:
    """Message of the failure, and what the 64 threads wrote."""
    out = (ctypes.c_int * 64)()
    return library.run(name.encode(), out).decode(), list(out)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("half_the_threads", "divergent barrier: thread 0 waits for its block at faulty.cu:6, thread 32 has ended"),
        (
            "two_places",
            "divergent barrier: thread 0 waits for its block at faulty.cu:11, thread 32 waits for its block at faulty.cu:13",
        ),
        ("half_a_warp", "divergent barrier: thread 0 waits for its warp at faulty.cu:17, thread 0 waits"),
    ],
)
def test_divergent_barriers_are_errors(faulty, kernel, message):
    given, _ = run_faulty(faulty, kernel)
    assert given.startswith(message)
    assert run_faulty(faulty, "reverse") == ("", list(range(63, -1, -1)))  # and the next launch is as good as new


def test_shared_memory_is_poisoned(faulty):
    run_faulty(faulty, "reverse")
    assert run_faulty(faulty, "uninitialised") == ("", [-1] * 64)


@pytest.mark.parametrize("kernel", ["reverse", "reverse_in_warp"])
def test_a_planted_missing_barrier_is_caught(faulty, kernel):
    def is_right() -> bool:
        for seed in (0, *SEEDS):
            with shim_build.shuffled(faulty, seed):
                _, out = run_faulty(faulty, kernel)
            if out != [k ^ 31 if kernel == "reverse_in_warp" else 63 - k for k in range(64)]:
                return False
        return True

    before = set(shim_build.barriers(faulty))
    assert is_right()
    line = {"reverse": "faulty.cu:30", "reverse_in_warp": "faulty.cu:38"}[kernel]
    assert line in before | set(shim_build.barriers(faulty))
    assert shim_build.caught(faulty, line, is_right)
    assert not shim_build.caught(faulty, "faulty.cu:0", is_right)
