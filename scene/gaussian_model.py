# SPDX-License-Identifier: Apache-2.0
"""The Gaussians: raw parameters, activations, optimizer groups, learning rates, PLY.

N Gaussians, K = (degree + 1)^2 SH coefficients a channel. Raw parameters are unbounded: log scale, opacity logit,
quaternion (w, x, y, z) of any length. Method and property names are upstream's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from scene.densify import IndexMap, densify_and_prune, reset_opacity
from scene.gaussian_ply import ANTIALIASED_COMMENT, DC, ROTATION, SCALE, XYZ, read_gaussians
from scene.mip_filter import Sampling, smoothed
from scene.ply import write_vertices
from simple_knn._C import distCUDA2
from utils.general_utils import atomic_path, build_covariance, get_expon_lr_func, inverse_sigmoid
from utils.graphics_utils import BasicPointCloud
from utils.random_streams import RandomStreams
from utils.sh_utils import RGB2SH, SH2RGB

if TYPE_CHECKING:
    from arguments import OptimizationParams

INITIAL_OPACITY = 0.1
MIN_SQUARED_DISTANCE = 1e-7
SH_REST_LR_SHARE = 1 / 20
STATISTICS = ("max_radii2D", "xyz_gradient_accum", "denom")
LEAST_OPACITY = 1e-7  # in a file: smoothed ones may be 0, whose logit is infinite
SETTLED_STEPS = 100_000  # of Gaussians from a file that does not say: their moments have no bias left
NO_OPTIMIZER = "the Gaussian model has no optimizer yet; call training_setup(opt) first"
PER_GAUSSIAN = ("xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation")


class GaussianModel:
    """State: the seven parameters, the active SH degree, the optimizer with its schedules, and the statistics since the
    last densification: max_radii2D [N] px, xyz_gradient_accum [N, 1], denom [N, 1]; steps_since_added [N, 1] of the
    optimizer, which a new Gaussian begins with empty moments.

    `sampling`: of the training cameras, where scene/mip_filter.py smooths what is rendered; a file holds the result.
    `antialiased`: whether the rasterizer's blur lowers opacities, as when these Gaussians were trained; a file says so.
    `background` is a parameter as in upstream, so that the optimizer has its groups; it is never rendered.
    """

    def __init__(self, sh_degree: int, device: str | torch.device = "cpu") -> None:
        self.active_sh_degree = 0
        self.max_sh_degree = sh_degree
        self.device = torch.device(device)
        self.spatial_lr_scale = 1.0
        self.percent_dense = 0.0
        self.optimizer: torch.optim.Optimizer | None = None
        self.steps_since_added = torch.zeros(0, 1, dtype=torch.int32)
        self.sampling: Sampling | None = None
        self.antialiased = False
        self._set_parameters({name: torch.zeros(0, *shape) for name, shape in self._shapes().items()})

    def parameters_in_order(self) -> dict[str, nn.Parameter]:
        """Raw parameters by the name of their optimizer group, in the groups' order."""
        return dict(self._parameters)

    @property
    def get_xyz(self) -> torch.Tensor:
        """Positions [N, 3]."""
        return self._parameters["xyz"]

    @property
    def get_features(self) -> torch.Tensor:
        """SH coefficients [N, K, 3]."""
        if self.max_sh_degree == 0:
            return self._parameters["f_dc"]
        return torch.cat((self._parameters["f_dc"], self._parameters["f_rest"]), dim=1)

    @property
    def get_opacity(self) -> torch.Tensor:
        """Opacities in (0, 1) [N, 1]."""
        return torch.sigmoid(self._parameters["opacity"])

    @property
    def get_scaling(self) -> torch.Tensor:
        """Standard deviations along the axes [N, 3], world units."""
        return torch.exp(self._parameters["scaling"])

    @property
    def get_rotation(self) -> torch.Tensor:
        """Unit quaternions (w, x, y, z) [N, 4]."""
        return nn.functional.normalize(self._parameters["rotation"])

    @property
    def get_raw_rotation(self) -> torch.Tensor:
        """Quaternions as they are optimised, of any length [N, 4]."""
        return self._parameters["rotation"]

    def get_covariance(self, scaling_modifier: float = 1.0) -> torch.Tensor:
        """World covariances [N, 6] as rendered: xx, xy, xz, yy, yz, zz."""
        return build_covariance(scaling_modifier * self.rendered_shape()[1], self.get_raw_rotation)

    def rendered_shape(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacities [N, 1] and standard deviations [N, 3] as rendered: smoothed where `sampling` is given."""
        if self.sampling is None:
            return self.get_opacity, self.get_scaling
        return smoothed(self.get_opacity, self.get_scaling, self.sampling.deviation(self.get_xyz))

    def oneupSHdegree(self) -> None:
        """Raise the active SH degree by one, up to the maximum."""
        self.active_sh_degree = min(self.active_sh_degree + 1, self.max_sh_degree)

    def create_from_pcd(self, cloud: BasicPointCloud, spatial_lr_scale: float) -> None:
        """Start from a point cloud: isotropic scale from the 3 nearest neighbours, opacity 0.1, the points' colours."""
        self.spatial_lr_scale = spatial_lr_scale
        xyz = torch.tensor(np.asarray(cloud.points), dtype=torch.float32, device=self.device)
        n, rest = len(xyz), (self.max_sh_degree + 1) ** 2 - 1
        colour = torch.from_numpy(RGB2SH(np.asarray(cloud.colors, dtype=np.float64)))  # rounded to float32 only once
        squared = torch.clamp_min(distCUDA2(xyz), MIN_SQUARED_DISTANCE)
        rotation = torch.zeros(n, 4)
        rotation[:, 0] = 1
        self._set_parameters(
            {
                "xyz": xyz,
                "f_dc": colour[:, None, :],
                "f_rest": torch.zeros(n, rest, 3),
                "opacity": inverse_sigmoid(torch.full((n, 1), INITIAL_OPACITY)),
                "scaling": torch.log(torch.sqrt(squared))[:, None].repeat(1, 3),
                "rotation": rotation,
            }
        )

    def create_from_parameters(self, values: Mapping[str, torch.Tensor], spatial_lr_scale: float) -> None:
        """Start from raw parameters by name (PER_GAUSSIAN), of this model's SH degree. ValueError for other shapes."""
        self._set_parameters(values)
        self.spatial_lr_scale = spatial_lr_scale

    def training_setup(
        self,
        opt: OptimizationParams,
        optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        **options: Any,
    ) -> None:
        """Make the optimizer (learning rate 0, eps 1e-15, one named group a parameter) and the four schedules.

        DECISION: the paper optimises with AdamW and names no weight_decay; it is 0 by default, which is Adam bit for
        bit: decay would pull log scales and opacity logits to 0, every Gaussian to size 1 and opacity one half.
        """
        self.percent_dense = opt.percent_dense
        rates = {
            "xyz": opt.position_lr_init * self.spatial_lr_scale,
            "f_dc": opt.feature_lr,
            "f_rest": opt.feature_lr * SH_REST_LR_SHARE,
            "opacity": opt.opacity_lr,
            "scaling": opt.scaling_lr,
            "rotation": opt.rotation_lr,
            "background": opt.feature_lr,
        }
        groups = [{"params": [p], "lr": rates[name], "name": name} for name, p in self._parameters.items()]
        own = {"lr": 0.0, "eps": 1e-15, "weight_decay": opt.weight_decay, "betas": (0.9, opt.adam_beta2)}
        self.optimizer = optimizer_class(groups, **{**own, **options})
        last, scale, steps = opt.position_lr_final, self.spatial_lr_scale, opt.iterations
        self._schedules = {
            "xyz": get_expon_lr_func(opt.position_lr_init * scale, last * scale, steps),
            "f_dc": get_expon_lr_func(opt.feature_lr, opt.feature_lr_final, steps),
            "rotation": get_expon_lr_func(opt.rotation_lr, opt.rotation_lr_final, steps),
            "scaling": get_expon_lr_func(opt.scaling_lr, opt.scaling_lr_final, steps),
        }
        self.reset_statistics()

    def update_learning_rate(self, iteration: int) -> float:
        """Set and return the positions' rate."""
        return self._update_rate("xyz", iteration)

    def update_feature_learning_rate(self, iteration: int) -> float:
        """Set and return the base colours' rate; f_rest keeps its own."""
        return self._update_rate("f_dc", iteration)

    def update_rotation_learning_rate(self, iteration: int) -> float:
        """Set and return the rotations' rate."""
        return self._update_rate("rotation", iteration)

    def update_scaling_learning_rate(self, iteration: int) -> float:
        """Set and return the scales' rate."""
        return self._update_rate("scaling", iteration)

    def _update_rate(self, name: str, iteration: int) -> float:
        rate = self._schedules[name](iteration)
        self._group(name)["lr"] = rate
        return rate

    def add_densification_stats(self, viewspace_grad: torch.Tensor, update_filter: torch.Tensor) -> None:
        """Add the norm of the NDC gradient (first two of [N, 3]) where `update_filter` [N] bool holds."""
        seen = update_filter.unsqueeze(1)
        norm = torch.linalg.vector_norm(viewspace_grad[:, :2], dim=-1, keepdim=True)
        self.xyz_gradient_accum += torch.where(seen, norm, 0.0)
        self.denom += seen

    def reset_statistics(self) -> None:
        """Forget what was gathered since the last densification."""
        n = len(self.get_xyz)
        self.max_radii2D = torch.zeros(n, device=self.device)
        self.xyz_gradient_accum = torch.zeros(n, 1, device=self.device)
        self.denom = torch.zeros(n, 1, device=self.device)

    @torch.no_grad()
    def densify_and_prune(
        self,
        max_grad: float,
        min_opacity: float,
        extent: float,
        max_screen_size: float | None,
        streams: RandomStreams,
        max_points: int | None = None,
        least_ratio: float = 0.0,
    ) -> IndexMap:
        """Clone, split and prune (scene/densify.py). Parameters are replaced, so their gradients are gone."""
        limits = max_grad, min_opacity, extent, max_screen_size
        return densify_and_prune(self, *limits, streams, max_points, least_ratio)

    @torch.no_grad()
    def reset_opacity(self) -> IndexMap:
        """Lower every opacity to at most 0.01 and zero its optimizer state."""
        return reset_opacity(self)

    @torch.no_grad()
    def apply_index_map(self, index_map: IndexMap, new_values: dict[str, torch.Tensor] | None = None) -> None:
        """Move parameters, optimizer state and statistics by one map.

        New rows take their parent's values, or those of `new_values` (parameter name -> [number of new rows, ...]).
        """
        for name in PER_GAUSSIAN:
            values = index_map.inherit(self._parameters[name])
            if new_values and name in new_values:
                values[index_map.is_new] = new_values[name]
            self._replace(name, values, index_map)
        self.max_radii2D = index_map.carry(self.max_radii2D)
        self.xyz_gradient_accum = index_map.carry(self.xyz_gradient_accum)
        self.denom = index_map.carry(self.denom)
        self.steps_since_added = index_map.carry(self.steps_since_added)

    def replace_parameter(self, name: str, values: torch.Tensor) -> None:
        """New values [N, ...] for one parameter; its optimizer state becomes zero, its step count stays.

        Raises ValueError for another name or shape.
        """
        if name not in self._parameters or values.shape != self._parameters[name].shape:
            expected = {name: tuple(x.shape) for name, x in self._parameters.items()}
            raise ValueError(f"{name} is {tuple(values.shape)}; expected one of {expected}: apply_index_map changes N")
        new = torch.ones(len(values), dtype=torch.bool, device=self.device)
        self._replace(name, values, IndexMap(torch.arange(len(values), device=self.device), new))

    def _replace(self, name: str, values: torch.Tensor, index_map: IndexMap) -> None:
        """New leaf in place of a parameter; optimizer state by Gaussian follows the map, the rest (step) stays."""
        old = self._parameters[name]
        new = nn.Parameter(values.detach().contiguous())
        self._parameters[name] = new
        if self.optimizer is None:
            return
        self._group(name)["params"][0] = new
        state = self.optimizer.state.pop(old, None)
        if state:
            moments = {key: x for key, x in state.items() if torch.is_tensor(x) and x.shape == old.shape}
            self.optimizer.state[new] = {**state, **{key: index_map.carry(x) for key, x in moments.items()}}

    def _group(self, name: str) -> dict[str, Any]:
        if self.optimizer is None:
            raise ValueError(NO_OPTIMIZER)
        return next(group for group in self.optimizer.param_groups if group["name"] == name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one Gaussian's raw parameters, by name."""
        return dict(zip(PER_GAUSSIAN, ((3,), (1, 3), ((self.max_sh_degree + 1) ** 2 - 1, 3), (1,), (3,), (4,))))

    def _set_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take new raw parameters, all Gaussians at once; the optimizer is dropped, statistics restart at 0.

        Raises ValueError unless each is there, of one N and of the shape that this SH degree gives.
        """
        n = len(values["xyz"]) if "xyz" in values else 0
        for name, shape in self._shapes().items():
            if name not in values or values[name].shape != (n, *shape):
                given = tuple(values[name].shape) if name in values else "missing"
                rest = f"raw values for N = {n:,} and SH degree {self.max_sh_degree}"
                raise ValueError(f"{name} is {given}; expected {(n, *shape)}, {rest}")
        values = {**{name: values[name] for name in PER_GAUSSIAN}, "background": torch.zeros(3, 1, 1)}
        self._parameters = {
            name: nn.Parameter(x.detach().to(self.device, torch.float32).contiguous()) for name, x in values.items()
        }
        self.optimizer = None
        self.steps_since_added = torch.zeros(len(self.get_xyz), 1, dtype=torch.int32, device=self.device)
        self.reset_statistics()

    def capture(self) -> dict[str, Any]:
        """All that training changes, by name: parameters, optimizer state, statistics, active SH degree.

        As upstream's, it holds the tensors themselves, which the next step changes: save it at once, or copy.deepcopy.
        """
        states = self.optimizer.state if self.optimizer else {}
        return {
            "active_sh_degree": self.active_sh_degree,
            "parameters": dict(self._parameters),
            "optimizer": {name: dict(states.get(p, {})) for name, p in self._parameters.items()},
            "statistics": {name: getattr(self, name) for name in STATISTICS},
            "steps_since_added": self.steps_since_added,
        }

    def restore(self, captured: dict[str, Any]) -> None:
        """Continue from what `capture` gave, with the optimizer and schedules of training_setup.

        Raises ValueError when it is of another SH degree, and without an optimizer.
        """
        if self.optimizer is None:
            raise ValueError(NO_OPTIMIZER)
        stored, own = (parameters["f_rest"].shape[1] for parameters in (captured["parameters"], self._parameters))
        if stored != own:
            raise ValueError(
                f"the checkpoint has {stored} f_rest coefficients, this model {own}; keep ModelParams.sh_degree"
            )
        for name, values in captured["parameters"].items():
            old, new = self._parameters[name], nn.Parameter(values.to(self.device))
            self._parameters[name] = self._group(name)["params"][0] = new
            self.optimizer.state.pop(old, None)
            if captured["optimizer"][name]:
                # AdamW's step count stays on the CPU wherever the parameters are
                stored_state = captured["optimizer"][name].items()
                self.optimizer.state[new] = {k: x.cpu() if k == "step" else x.to(self.device) for k, x in stored_state}
        for name in STATISTICS:
            setattr(self, name, captured["statistics"][name].to(self.device))
        settled = torch.full((len(self.get_xyz), 1), SETTLED_STEPS, dtype=torch.int32)
        self.steps_since_added = captured.get("steps_since_added", settled).to(self.device)
        self.active_sh_degree = captured["active_sh_degree"]

    def as_vertices(self) -> np.ndarray:
        """Raw parameters as a structured array [N] with a PLY's fields, in upstream's order; normals are zero.

        Where `sampling` is given, opacities and scales are those that are rendered.
        """
        flat = {name: self._parameters[name].detach().cpu() for name in PER_GAUSSIAN}
        if self.sampling is not None:
            opacity, scaling = (x.detach().cpu() for x in self.rendered_shape())
            flat |= {"opacity": torch.logit(opacity, LEAST_OPACITY), "scaling": torch.log(scaling)}
        columns = [flat["xyz"], torch.zeros_like(flat["xyz"])]
        # channel-major: all coefficients of red first
        columns += [flat[name].transpose(1, 2).flatten(1) for name in ("f_dc", "f_rest")]
        columns += [flat[name] for name in ("opacity", "scaling", "rotation")]
        table = np.ascontiguousarray(torch.cat(columns, dim=1).numpy())  # [N, fields]
        return table.view([(name, "f4") for name in _ply_fields(self.max_sh_degree)]).reshape(-1)

    def comments(self) -> list[str]:
        """What a PLY header says of these Gaussians beyond its fields."""
        return [ANTIALIASED_COMMENT] if self.antialiased else []

    def save_ply(self, path: str | os.PathLike[str]) -> None:
        """Write raw parameters as PLY, and `point_cloud_rgb.txt` (xyz and base colour) beside it; both atomically."""
        write_vertices(path, self.as_vertices(), self.comments())
        rgb = SH2RGB(self._parameters["f_dc"].detach().flatten(1))
        with atomic_path(Path(path).parent / "point_cloud_rgb.txt") as temporary:
            np.savetxt(temporary, torch.cat([self.get_xyz.detach(), rgb], dim=1).cpu().numpy())

    @classmethod
    def of_parameters(cls, values: Mapping[str, torch.Tensor], device: str | torch.device = "cpu") -> GaussianModel:
        """A model of raw parameters by name (PER_GAUSSIAN), with the SH degree of f_rest [N, K - 1, 3].

        Raises ValueError for shapes that do not belong together.
        """
        gaussians = cls(math.isqrt(values["f_rest"].shape[1] + 1) - 1, device)
        gaussians._set_parameters(values)
        gaussians.active_sh_degree = gaussians.max_sh_degree
        return gaussians

    def with_parameters(
        self, values: Mapping[str, torch.Tensor], device: str | torch.device | None = None
    ) -> GaussianModel:
        """A model of other raw parameters, smoothed and filtered as this one is; on this one's device by default."""
        gaussians = self.of_parameters(values, self.device if device is None else device)
        gaussians.sampling, gaussians.antialiased = self.sampling, self.antialiased
        return gaussians

    @classmethod
    def from_ply(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> GaussianModel:
        """A model of a PLY file, with the SH degree that its fields have. Raises PlyError (ValueError)."""
        parameters, antialiased = read_gaussians(path)
        gaussians = cls.of_parameters(parameters, device)
        gaussians.antialiased = antialiased
        return gaussians

    def load_ply(self, path: str | os.PathLike[str]) -> None:
        """Read a PLY file of Gaussians, with the SH degree that its fields have. Raises PlyError (ValueError)."""
        parameters, self.antialiased = read_gaussians(path)
        self.active_sh_degree = self.max_sh_degree = math.isqrt(parameters["f_rest"].shape[1] + 1) - 1
        self._set_parameters(parameters)


def _ply_fields(sh_degree: int) -> list[str]:
    """Field names in the order in which upstream writes them."""
    rest = [f"f_rest_{k}" for k in range(3 * ((sh_degree + 1) ** 2 - 1))]
    return [*XYZ, "nx", "ny", "nz", *DC, *rest, "opacity", *SCALE, *ROTATION]
