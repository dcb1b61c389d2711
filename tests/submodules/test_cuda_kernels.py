# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, executed by the shim: any order of execution, every barrier, overflow, room for pairs, wide Gaussians.

The golden, law, reference, view and message tests run on these kernels too (fixture `each_backend`).
"""

import ctypes

import pytest
import shim_build
import torch
from conftest import compiled
from raster_scenes import Result, Scene, random_scene, run_extension, run_views, settings_of, three_views

from diff_gaussian_rasterization import GaussianRasterizer, _abi, _cuda

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
        scene.inputs = scenes[0].inputs
    return scenes


def orders_memory_only(barrier: str) -> bool:
    """Whether the source says so of this barrier: then no order of execution shows it, but ThreadSanitizer does."""
    file, line = barrier.split(":")
    return "// orders memory only" in (shim_build.RASTERIZER.parent / file).read_text().splitlines()[int(line) - 1]


def test_every_barrier_is_needed(cuda_kernels):
    """Each barrier of the kernels removed in turn: some order of execution must notice it."""
    scene, views = crowded_scene(), many_small_views()
    natural, natural_views = run_extension(scene), run_views(views)

    def is_right() -> bool:
        for seed in (*SEEDS, 0):
            with shim_build.shuffled(cuda_kernels, seed):
                assert_same_bits(natural, run_extension(scene))
        with shim_build.shuffled(cuda_kernels, SEEDS[0]):
            for expected, result in zip(natural_views, run_views(views), strict=True):
                assert_same_bits(expected, result)
        return True

    assert not shim_build.caught(cuda_kernels, "none", is_right)
    found = shim_build.barriers(cuda_kernels)
    assert len(found) == 8
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


# ------------------------------------------------------------------------------------------------ memory


@pytest.fixture
def poisoned_memory():
    """torch fills what it allocates with NaN and the largest integers."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3, dtype=torch.uint8).min() == 255
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("pairs_fit", [True, False])
def test_memory_that_no_kernel_has_written_is_not_read(cuda_kernels, monkeypatch, request, pairs_fit):
    """Behind an opaque layer no slot is written but its flag; some Gaussians lie there alone."""
    scene = crowded_scene()
    scene.inputs["opacities"][:12] = 0.999
    if not pairs_fit:
        monkeypatch.setattr(_cuda.PairCount, "capacity", lambda self, n_splats: n_splats)
    expected = run_extension(scene)
    request.getfixturevalue("poisoned_memory")
    result = run_extension(scene)
    if pairs_fit:
        assert_same_bits(expected, result)
    assert torch.equal(expected.images, result.images)
    assert_close_gradients(expected, result, 2e-6)


# ------------------------------------------------------------------------------------------------ room for pairs


def render_once(scene: Scene, requires_grad: bool = False) -> int:
    """Renders one view; returns the number of its pairs."""
    rasterizer = GaussianRasterizer(settings_of(scene.view))
    means2d = torch.zeros(len(scene.inputs["means3D"]), 3, requires_grad=requires_grad)
    rasterizer(means2D=means2d, **scene.inputs)
    return int(rasterizer.counts["n_pairs"])


def test_the_next_call_has_room(cuda_kernels):
    """The first call guesses too low, sends its count, and the second one fits."""
    scene = random_scene(41, n=200, height=100, width=100, scale=0.2)
    capacities = []
    for _ in range(2):
        n_pairs = render_once(scene)
        counts = next(iter(_cuda._pairs.values()))
        capacities.append(counts.capacity(200))
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


@pytest.fixture
def asked_for(cuda_kernels, monkeypatch):
    """The capacities that the buffers were cut for, call by call."""
    capacities, original = [], _cuda.PairCount.capacity

    def noting(self, n_splats):
        capacities.append(original(self, n_splats))
        return capacities[-1]

    monkeypatch.setattr(_cuda.PairCount, "capacity", noting)
    return capacities


def test_a_viewers_images_do_not_enlarge_the_buffers_of_the_training(asked_for):
    """Large images without gradients, as a viewer or test views render them, between two steps; and the converse."""
    small, large = (random_scene(43, n=200, height=h, width=h, scale=0.3) for h in (16, 160))
    n_small = render_once(small, requires_grad=True)
    render_once(small, requires_grad=True)
    in_training = asked_for[-1]
    for _ in range(3):
        n_large = render_once(large)
        with torch.no_grad():  # as a viewer does: the model's parameters require gradients all the same
            render_once(large, requires_grad=True)
    assert asked_for[-1] >= n_large > 4 * in_training >= 4 * n_small
    render_once(small, requires_grad=True)
    assert asked_for[-1] == in_training


def test_views_rendered_together_have_room_of_their_own(asked_for):
    scenes = [random_scene(44 + k, n=200, height=60, width=60, scale=0.2) for k in range(3)]
    for _ in range(2):
        run_views(scenes)
    together = asked_for[-1]
    run_extension(scenes[0])
    run_extension(scenes[0])
    alone = asked_for[-1]
    run_views(scenes)
    assert asked_for[-1] == together > alone


# ------------------------------------------------------------------------------------------------ several views


def test_views_that_do_not_fit(cuda_kernels, one_list):
    scenes = three_views()
    for result, scene in zip(run_views(scenes), scenes, strict=True):
        alone = run_extension(scene)
        assert torch.equal(result.images, alone.images)
        assert_close_gradients(alone, result, 2e-6)


def test_one_launch_of_each_kernel_renders_all_views(cuda_kernels):
    """Three views, forward and backward, launch what one view does."""
    scenes = three_views()
    launches = []
    for render in (lambda: run_extension(scenes[0]), lambda: run_views(scenes)):
        before = cuda_kernels.cuda_shim_launches()
        render()
        launches.append(cuda_kernels.cuda_shim_launches() - before)
    assert launches[0] == launches[1] == 9


def test_images_that_are_too_large_are_an_error_not_a_crash(cuda_kernels):
    views = (_abi.Scene * 2)(*[_abi.Scene(n_gaussians=1, width_px=65536, height_px=65536)] * 2)
    batch = _cuda.Batch(pair_capacity=1, n_views=2, views=views)
    assert cuda_kernels.dgr_cuda_buffer_bytes(ctypes.byref(batch), ctypes.byref(_cuda.BufferBytes())) == 1
    assert b"more than 2^24 tiles" in cuda_kernels.dgr_cuda_last_error()


def test_too_many_views_are_an_error_not_a_crash(cuda_kernels):
    views = (_abi.Scene * 17)(*[_abi.Scene(n_gaussians=1, width_px=8, height_px=8)] * 17)
    batch = _cuda.Batch(pair_capacity=17, n_views=17, views=views)
    assert cuda_kernels.dgr_cuda_buffer_bytes(ctypes.byref(batch), ctypes.byref(_cuda.BufferBytes())) == 1
    assert b"a batch of 17 views, expected 1 to 16" in cuda_kernels.dgr_cuda_last_error()


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
