# SPDX-License-Identifier: Apache-2.0
"""Files as `torch.save((gaussians.capture(), iteration), "chkpntK.pth")` of 3DGS and of LucidDreamer makes them."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from arguments.load import load_config
from scene.upstream_checkpoint import read_upstream
from tests.drawn import Draws
from tests.trees import equal
from trainer.state import TrainState, read_start

N, DEGREE = 7, 1
NAMES = ("xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation")  # order of upstream's groups
SHAPES = {
    "xyz": (3,),
    "f_dc": (1, 3),
    "f_rest": (3, 3),
    "opacity": (1,),
    "scaling": (3,),
    "rotation": (4,),
    "background": (),
}


def _capture(background: bool, extent=1.5, steps: int = 3) -> tuple:
    """gaussians.capture() after a few steps of Adam on random gradients; statistics are told apart by their values."""
    draws = Draws(0)
    names = (*NAMES, "background") if background else NAMES
    values = {
        name: nn.Parameter(draws.normal(N, *SHAPES[name]) if name != "background" else draws.normal(3, 1, 1))
        for name in names
    }
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": 0.01, "name": name} for name, p in values.items()], lr=0.0, eps=1e-15
    )
    for _ in range(steps):
        for p in values.values():
            p.grad = draws.normal(*p.shape)
        optimizer.step()
    first = [values["xyz"], *([values["background"]] if background else [])]
    rest = [values[name] for name in ("f_dc", "f_rest", "scaling", "rotation", "opacity")]
    statistics = [torch.arange(N) + 1.0, draws.uniform(N, 1), torch.ones(N, 1)]
    return (DEGREE, *first, *rest, *statistics, optimizer.state_dict(), extent)


@pytest.mark.parametrize("background", [False, True], ids=["3dgs", "luciddreamer"])
@pytest.mark.parametrize("extent", [1.5, np.float64(1.5), np.float32(1.5)], ids=["float", "float64", "float32"])
def test_everything_in_the_file_comes_back(tmp_path, background, extent) -> None:
    capture = _capture(background, extent)
    torch.save((capture, 1200), tmp_path / "chkpnt1200.pth")
    read, iteration = read_upstream(tmp_path / "chkpnt1200.pth")
    k = 2 if background else 1
    by_name = dict(zip(("f_dc", "f_rest", "scaling", "rotation", "opacity"), capture[1 + k : 6 + k]), xyz=capture[1])
    assert iteration == 1200 and read["active_sh_degree"] == DEGREE
    assert all(torch.equal(read["parameters"][name], by_name[name]) for name in NAMES)
    assert torch.equal(read["parameters"]["background"], capture[2] if background else torch.zeros(3, 1, 1))
    assert torch.equal(read["statistics"]["max_radii2D"], torch.arange(N) + 1.0)
    state = capture[-2]["state"]
    assert all(equal(read["optimizer"][name], dict(state[place])) for place, name in enumerate(NAMES))
    assert bool(read["optimizer"]["background"]) == background


def test_a_run_goes_on_from_it(tmp_path) -> None:
    """Gaussians, moments and iteration are the file's, the ranges are as wide as by then; all of it survives a step."""
    torch.save((_capture(True), 1200), tmp_path / "chkpnt1200.pth")
    words = [
        "--text",
        "x",
        "--sh_degree",
        "1",
        "--init_num_pts",
        "50",
        "--device",
        "cpu",
        "--model_path",
        str(tmp_path),
    ]
    config = load_config(words)
    state = TrainState.start(config, "cpu")
    widened = state.scene.ranges.widened(config.optimization, config.cameras).widened(
        config.optimization, config.cameras
    )
    _, tree = read_start(str(tmp_path / "chkpnt1200.pth"))
    state.load_upstream(*tree["upstream"], config)
    assert state.iteration == 1200 and len(state.gaussians.get_xyz) == N and state.scene.ranges == widened
    xyz = state.gaussians.parameters_in_order()["xyz"]
    assert float(state.optimizer.state[xyz]["step"]) == 3
    xyz.grad = torch.ones_like(xyz)
    state.optimizer.step()
    assert float(state.optimizer.state[xyz]["step"]) == 4


def _broken(kind: str):
    capture = list(_capture(True))
    if kind == "short":
        return capture[:9], 5
    if kind == "order":
        capture[1], capture[6] = capture[6], capture[1]
    elif kind == "counts":
        capture[8] = torch.ones(N + 1)
    elif kind == "nan":
        capture[1] = torch.full((N, 3), float("nan"))
    elif kind == "moments":
        capture[-2]["state"][0]["exp_avg"] = torch.zeros(2, 3)
    elif kind == "iteration":
        return capture, "1200"
    elif kind == "no pair":
        return capture
    return capture, 5


@pytest.mark.parametrize("kind", ["short", "order", "counts", "nan", "moments", "iteration", "no pair"])
def test_another_file_is_refused_in_a_sentence(tmp_path, kind) -> None:
    torch.save(_broken(kind), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth cannot be imported .*expected upstream's chkpntK\.pth"):
        read_upstream(tmp_path / "odd.pth")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"PK\3\4" + b"\0" * 50, None], ids=["empty", "zeros", "zip", "missing"]
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.pth cannot be imported") as caught:
        read_upstream(tmp_path / "odd.pth")
    assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["zip", "legacy"])
def test_code_in_the_file_is_not_run(tmp_path, save) -> None:
    save(((*_capture(False)[:-1], Hostile(tmp_path / "harm")), 5), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="cannot be imported"):
        read_upstream(tmp_path / "odd.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("place", ["xyz", "exp_avg", "exp_avg_sq", "max_radii2D"])
@pytest.mark.parametrize("value", [float("nan"), 1e39])
def test_numbers_that_are_not_finite_in_single_precision_are_refused(tmp_path, place, value) -> None:
    capture = list(_capture(False))
    if place == "xyz":
        capture[1] = capture[1].detach().double().fill_(value)
    elif place == "max_radii2D":
        capture[7] = capture[7].double().fill_(value)
    else:
        capture[-2]["state"][0][place] = capture[-2]["state"][0][place].double().fill_(value)
    torch.save((tuple(capture), 5), tmp_path / "chkpnt5.pth")
    with pytest.raises(ValueError, match=f"{place}.* not finite"):
        read_upstream(tmp_path / "chkpnt5.pth")
