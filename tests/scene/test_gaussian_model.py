# SPDX-License-Identifier: Apache-2.0
"""The Gaussian model against upstream's recorded numbers: start, optimizer step, densification, reset, files, rates."""

import json

import numpy as np
import pytest
import torch

from arguments import OptimizationParams
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws
from utils.graphics_utils import BasicPointCloud
from utils.random_streams import RandomStreams

RECORDED = {"xyz": "_xyz", "f_dc": "_features_dc", "f_rest": "_features_rest"}
RECORDED |= {"opacity": "_opacity", "scaling": "_scaling", "rotation": "_rotation"}
STATISTICS = ("max_radii2D", "xyz_gradient_accum", "denom")
EXTENT = 3.5


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "gaussian_model.npz")


def _fresh(degree: int) -> GaussianModel:
    rng = np.random.RandomState(5)
    cloud = BasicPointCloud(rng.randn(300, 3) * 0.3, rng.rand(300, 3), np.zeros((300, 3)))
    model = GaussianModel(degree)
    model.create_from_pcd(cloud, EXTENT)
    model.training_setup(OptimizationParams())
    return model


def _stepped(degree: int) -> GaussianModel:
    """After one step on the gradients of the recording; of them Adam's first step takes the signs only."""
    model, generator = _fresh(degree), torch.Generator().manual_seed(9)
    parameters = model.parameters_in_order()
    for name in RECORDED:
        parameters[name].grad = torch.randn(parameters[name].shape, generator=generator)
    model.optimizer.step()
    model.optimizer.zero_grad()
    return model


@pytest.fixture(params=[0, 2])
def before_densify(request, golden) -> tuple[GaussianModel, str]:
    """A model in the recorded state before densification, and the prefix of its records."""
    model, prefix = _stepped(request.param), f"sh{request.param}"
    with torch.no_grad():
        for name, recorded in RECORDED.items():
            model.parameters_in_order()[name].copy_(torch.from_numpy(golden[f"{prefix}/before_densify/{recorded}"]))
    for name in STATISTICS:
        setattr(model, name, torch.from_numpy(golden[f"{prefix}/before_densify/{name}"]))
    return model, prefix


def _assert_state(model: GaussianModel, golden, prefix: str) -> None:
    """Parameters, moments and statistics, to the last bits of float32."""
    for name, recorded in RECORDED.items():
        parameter = model.parameters_in_order()[name]
        _close(parameter, golden[f"{prefix}/{recorded}"], name)
        for moment in ("exp_avg", "exp_avg_sq"):
            if f"{prefix}/{moment}/{name}" in golden:
                state = model.optimizer.state[parameter]
                _close(state[moment], golden[f"{prefix}/{moment}/{name}"], f"{moment} of {name}")
                assert int(state["step"]) == 1
    for name in STATISTICS:
        _close(getattr(model, name), golden[f"{prefix}/{name}"], name)


def _close(ours: torch.Tensor, recorded: np.ndarray, what: str) -> None:
    assert tuple(ours.shape) == recorded.shape, what
    np.testing.assert_allclose(ours.detach().numpy(), recorded, rtol=2e-6, atol=2e-7, err_msg=what)


@pytest.mark.parametrize("degree", [0, 2])
def test_start(golden, degree) -> None:
    model = _fresh(degree)
    _assert_state(model, golden, f"sh{degree}/init")
    # upstream recorded covariances with scaling_modifier 1.3
    _close(model.get_covariance(1.3), golden[f"sh{degree}/init/cov"], "covariance")


@pytest.mark.parametrize("degree", [0, 2])
def test_one_optimizer_step(golden, degree) -> None:
    _assert_state(_stepped(degree), golden, f"sh{degree}/stepped")


def test_densification_and_reset(golden, before_densify) -> None:
    model, prefix = before_densify
    index_map = model.densify_and_prune(0.00075, 0.005, EXTENT, 20, RandomStreams(11))
    _assert_state(model, golden, f"{prefix}/after_densify")
    assert len(index_map) == len(model.get_xyz)
    assert len(model.reset_opacity()) == len(model.get_xyz)
    _assert_state(model, golden, f"{prefix}/after_reset")


def test_written_files_are_byte_for_byte_upstreams(golden, golden_dir, before_densify, tmp_path) -> None:
    model, prefix = before_densify
    with torch.no_grad():
        model.densify_and_prune(0.00075, 0.005, EXTENT, 20, RandomStreams(11))
        for name, recorded in RECORDED.items():
            model.replace_parameter(name, torch.from_numpy(golden[f"{prefix}/after_reset/{recorded}"]))
    model.save_ply(tmp_path / "point_cloud.ply")
    for name in ("point_cloud.ply", "point_cloud_rgb.txt"):
        assert (tmp_path / name).read_bytes() == (golden_dir / f"point_cloud_{prefix}" / name).read_bytes(), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_save_and_load_are_inverse(tmp_path, degree) -> None:
    model = _fresh(degree)
    with torch.no_grad():
        for parameter in model.parameters_in_order().values():
            parameter.copy_(Draws(parameter.numel()).normal(*parameter.shape))
        model.parameters_in_order()["background"].zero_()  # not in the file: nothing renders it
    model.save_ply(tmp_path / "cloud.ply")
    loaded = GaussianModel(2)  # the file's degree wins
    loaded.load_ply(tmp_path / "cloud.ply")
    for name, parameter in model.parameters_in_order().items():
        assert torch.equal(loaded.parameters_in_order()[name], parameter), name
    assert loaded.active_sh_degree == loaded.max_sh_degree == degree


def test_learning_rates_are_upstreams(golden_dir) -> None:
    recorded = json.loads((golden_dir / "schedules.json").read_text())
    recorded = recorded["learning_rates_default_optimization_params_extent_3.5"]
    model = _fresh(1)
    for iteration, rates in recorded.items():
        model.update_learning_rate(int(iteration))
        model.update_feature_learning_rate(int(iteration))
        model.update_rotation_learning_rate(int(iteration))
        model.update_scaling_learning_rate(int(iteration))
        ours = {group["name"]: group["lr"] for group in model.optimizer.param_groups}
        assert list(ours) == list(rates)
        assert ours == {name: pytest.approx(rate, rel=1e-12) for name, rate in rates.items()}, iteration


def test_optimizer_groups_hold_the_parameters_in_order() -> None:
    model = _fresh(1)
    assert all(group["eps"] == 1e-15 for group in model.optimizer.param_groups)
    for group, (name, parameter) in zip(model.optimizer.param_groups, model.parameters_in_order().items(), strict=True):
        assert group["name"] == name and group["params"][0] is parameter


def test_another_optimizer_can_be_chosen() -> None:
    model = _fresh(0)
    model.training_setup(OptimizationParams(), torch.optim.RAdam, weight_decay=0.1)
    assert isinstance(model.optimizer, torch.optim.RAdam)
    assert {group["weight_decay"] for group in model.optimizer.param_groups} == {0.1}


def _after_steps(weight_decay: float, optimizer_class: type = torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Parameters after four steps with the same random gradients; one tensor gets none in the second step."""
    model, draws = _fresh(1), Draws(2)
    model.training_setup(OptimizationParams(weight_decay=weight_decay), optimizer_class)
    for step in range(4):
        model.update_learning_rate(step + 1)
        for name, parameter in model.parameters_in_order().items():
            gradient = draws.normal(*parameter.shape)
            parameter.grad = None if (step, name) == (1, "opacity") else gradient
        model.optimizer.step()
    return {name: p.detach() for name, p in model.parameters_in_order().items()}


def test_without_decay_it_is_adam_bit_for_bit() -> None:
    ours, adam = _after_steps(0.0), _after_steps(0.0, torch.optim.Adam)
    assert all(torch.equal(ours[name], adam[name]) for name in adam)


def test_weight_decay_is_decoupled() -> None:
    """p <- p - lr w p before Adam's own step: one step of all zero gradients is the decay alone."""
    model = _fresh(1)
    model.training_setup(OptimizationParams(weight_decay=0.5))
    assert type(model.optimizer) is torch.optim.AdamW
    before = {name: p.detach().clone() for name, p in model.parameters_in_order().items()}
    for parameter in model.parameters_in_order().values():
        parameter.grad = torch.zeros_like(parameter)
    rates = {group["name"]: group["lr"] for group in model.optimizer.param_groups}
    model.optimizer.step()
    for name, parameter in model.parameters_in_order().items():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.5 * rates[name]), rtol=1e-6, atol=0)
    assert not torch.equal(before["scaling"], model.parameters_in_order()["scaling"])


def test_rates_need_an_optimizer() -> None:
    with pytest.raises(ValueError, match="call training_setup"):
        GaussianModel(0)._group("xyz")


def test_sh_degree_goes_up_to_the_maximum() -> None:
    model = _fresh(2)
    degrees = [model.active_sh_degree]
    for _ in range(4):
        model.oneupSHdegree()
        degrees.append(model.active_sh_degree)
    assert degrees == [0, 1, 2, 2, 2]


def test_statistics_count_visible_gaussians_only() -> None:
    model = _fresh(0)
    gradient = torch.zeros(300, 3)
    gradient[:3] = torch.tensor([3.0, 4.0, 100.0])  # the third component does not count
    seen = torch.zeros(300, dtype=torch.bool)
    seen[[0, 1, 5]] = True
    for _ in range(2):
        model.add_densification_stats(gradient, seen)
    assert model.xyz_gradient_accum[:6, 0].tolist() == [10, 10, 0, 0, 0, 0]
    assert model.denom[:6, 0].tolist() == [2, 2, 0, 0, 0, 2]


def test_covariance_of_a_turned_gaussian() -> None:
    """A quarter turn about z exchanges the variances of x and y."""
    model = _fresh(0)
    model._set_parameters(
        {
            **model.parameters_in_order(),
            "scaling": torch.log(torch.tensor([[1.0, 2.0, 3.0]])).repeat(300, 1),
            "rotation": torch.tensor([[1.0, 0.0, 0.0, 1.0]]).repeat(300, 1),  # not of unit length
        }
    )
    assert model.get_covariance()[0].tolist() == pytest.approx([4, 0, 0, 1, 0, 9], abs=1e-5)
    assert model.get_rotation.norm(dim=1).detach().numpy() == pytest.approx(np.ones(300))


def _raw(model: GaussianModel) -> dict[str, torch.Tensor]:
    return {name: x.detach() for name, x in model.parameters_in_order().items() if name != "background"}


@pytest.mark.parametrize("name", ["xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation"])
@pytest.mark.parametrize("change", [lambda x: x[:10], lambda x: x[..., :-1], lambda x: x[..., None], lambda x: None], ids=["fewer", "narrower", "deeper", "missing"])
def test_parameters_that_do_not_belong_together_are_refused(name, change) -> None:
    model = _fresh(1)
    values = {**_raw(model), name: change(_raw(model)[name])}
    values = {key: x for key, x in values.items() if x is not None}
    if len(values.get("xyz", ())) == 10:
        name = "f_dc"  # all the others are longer then
    makers = [lambda: GaussianModel(1).create_from_parameters(values, 1.0)]
    makers += [lambda: GaussianModel.of_parameters(values)] if "f_rest" in values else []
    for make in makers:
        with pytest.raises(ValueError, match=rf"{name if 'xyz' in values else 'xyz'} is .*; expected \(.*\), raw values for N = .* and SH degree 1"):
            make()
    if name in values and values[name].shape != _raw(model)[name].shape:
        with pytest.raises(ValueError, match=rf"{name} is .*; expected one of"):
            model.replace_parameter(name, values[name])
    assert model.get_features.shape == (300, 4, 3)


def test_coefficients_of_no_degree_and_of_another_are_refused() -> None:
    values = _raw(_fresh(1))
    with pytest.raises(ValueError, match=r"f_rest is \(300, 5, 3\); expected \(300, 3, 3\), raw values for N = 300 and SH degree 1"):
        GaussianModel.of_parameters({**values, "f_rest": torch.zeros(300, 5, 3)})
    with pytest.raises(ValueError, match=r"f_rest is \(300, 3, 3\); expected \(300, 8, 3\), raw values for N = 300 and SH degree 2"):
        GaussianModel(2).create_from_parameters(values, 1.0)
    with pytest.raises(ValueError, match=r"colour is \(3,\); expected one of {'xyz': \(300, 3\)"):
        _fresh(1).replace_parameter("colour", torch.ones(3))


def test_a_capture_is_continued_by_a_model_that_has_an_optimizer() -> None:
    captured = _fresh(1).capture()
    with pytest.raises(ValueError, match=r"no optimizer yet; call training_setup\(opt\) first"):
        GaussianModel(1).restore(captured)
