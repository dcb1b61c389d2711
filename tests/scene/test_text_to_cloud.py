# SPDX-License-Identifier: Apache-2.0
"""Initial points from a text, with a stand-in where Shap-E's pipeline or Point-E's package would be."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from arguments import GenerateCamParams
from scene import text_to_cloud
from scene.dataset_readers import initial_points, load_or_sample_points
from scene.ply import write_vertices
from scene.text_to_cloud import CloudUnavailable, load_shap_e, points_on_mesh
from tests.offline import no_network
from utils.random_streams import RandomStreams

CUBE = np.array([[x, y, z] for x in (0, 2) for y in (0, 2) for z in (0, 4)], dtype=np.float32)  # 2 x 2 x 4
FACES = np.array([[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6]])  # its sides x = 0 and x = 2


class Pipe:
    """Stands where ShapEPipeline does; remembers what it was asked."""

    def __init__(self, verts=CUBE, faces=FACES):
        self.verts, self.faces, self.calls = verts, faces, []

    def to(self, device):
        return self

    def __call__(self, prompt, **options):
        self.calls.append((prompt, options["output_type"], torch.rand(3, generator=options["generator"])))
        channels = {"R": torch.full((len(self.verts),), 0.2), "G": torch.from_numpy(self.verts[:, 0] / 2).float(), "B": torch.full((len(self.verts),), 1.7)}
        mesh = SimpleNamespace(verts=torch.from_numpy(self.verts), faces=torch.from_numpy(self.faces), vertex_channels=channels)
        return ([mesh],)


@pytest.fixture
def pipe(monkeypatch):
    pipe = Pipe()
    monkeypatch.setattr(text_to_cloud, "load_shap_e", lambda key: pipe)
    return pipe


def params(shape="shap_e", **changes):
    return GenerateCamParams(init_shape=shape, init_prompt="a box", **changes)


def test_shap_e_gives_a_cloud_on_its_mesh(pipe):
    """Centred, scaled to a half side of 0.5, 0.15 up, then a ball of 0.05 round each of 4096 points."""
    cloud = initial_points(params(init_num_pts=10_000, use_pointe_rgb=True), RandomStreams(0))
    assert cloud.points.shape == cloud.colors.shape == cloud.normals.shape == (2 * 4096, 3)
    assert pipe.calls[0][:2] == ("a box", "mesh")
    extent = np.abs(cloud.points - [0, 0, 0.15]).max(axis=0)
    assert extent == pytest.approx([0.25, 0.25, 0.5], abs=0.06)
    sides = np.abs(np.abs(cloud.points[:, 0]) - 0.25)
    assert sides.max() <= 0.05 and sides.max() > 0  # on the two sides, but for the ball
    right = cloud.points[:, 0] > 0
    for side, green in ((right, 1.0), (~right, 0.0)):
        assert cloud.colors[side] == pytest.approx(np.tile([0.2, green, 1.0], (side.sum(), 1)), abs=2e-4)


def test_it_is_upstreams_construction(pipe, monkeypatch):
    """Draws in order: the ball's polar angles, azimuths, radii, then the noise of the colours."""
    points, rgb = np.random.RandomState(5).rand(6, 3), np.random.RandomState(6).rand(6, 3)
    monkeypatch.setattr("scene.dataset_readers.point_e_cloud", lambda *_: text_to_cloud.TextCloud(points, rgb))
    cloud = initial_points(params("pointe", init_num_pts=15_000, use_pointe_rgb=True), RandomStreams(3))
    rng = np.random.RandomState(3)
    theta, phi, radius = rng.rand(3) * np.pi, rng.rand(3) * 2 * np.pi, 0.05 * rng.rand(3)
    ball = np.stack([radius * np.sin(theta) * np.sin(phi), radius * np.sin(theta) * np.cos(phi), radius * np.cos(theta)], 1)
    noise = rng.random_sample((6, 3, 3)) * 1e-4
    k, j = 4, 2
    np.testing.assert_allclose(cloud.points[k * 3 + j], points[k] * [1, -1, 1] + [0, 0, 0.15] + ball[j])
    np.testing.assert_allclose(cloud.colors[k * 3 + j], rgb[k] + noise[k, j])
    grey = initial_points(params("pointe", init_num_pts=15_000), RandomStreams(3))
    assert np.array_equal(grey.points, cloud.points) and grey.colors == pytest.approx(0.5, abs=0.002)
    few = initial_points(params("pointe", init_num_pts=10), RandomStreams(3))
    assert len(few.points) == 6


def test_the_same_seed_gives_the_same_cloud_and_the_file_is_the_path(pipe, tmp_path):
    made = [load_or_sample_points(tmp_path / f"{k}.ply", params(init_num_pts=5000), RandomStreams(seed)) for k, seed in enumerate((1, 1, 2))]
    write_vertices(tmp_path / "0.ply", made[0][1])
    first, second, other = (cloud for cloud, _ in made)
    assert np.array_equal(first.points, second.points) and not np.array_equal(first.points, other.points)
    draws = [draw for _, _, draw in pipe.calls]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    again, _ = load_or_sample_points(tmp_path / "0.ply", params(init_num_pts=5000), RandomStreams(9))
    assert len(pipe.calls) == 3 and np.array_equal(again.points, first.points)


def test_points_are_uniform_on_the_surface():
    """A triangle three times as large gets three times the points."""
    verts = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 1]], dtype=float)
    cloud = points_on_mesh(verts, np.array([[0, 1, 2], [3, 4, 5]]), verts, 4000, np.random.RandomState(0))
    assert np.mean(cloud.points[:, 2] > 0.5) == pytest.approx(0.75, abs=0.03)
    assert cloud.rgb == pytest.approx(cloud.points)  # colours are interpolated as positions are
    small = cloud.points[cloud.points[:, 2] < 0.5]
    assert small[:, :2].sum(axis=1).max() <= 1 and small[:, :2].mean(axis=0) == pytest.approx([1 / 3, 1 / 3], abs=0.03)


def test_a_mesh_of_nothing(pipe, monkeypatch):
    """diffusers ends with this error when its network encloses no volume."""

    def nothing(*_, **__):
        return torch.cat([], dim=1)

    monkeypatch.setattr(Pipe, "__call__", nothing)
    with pytest.raises(CloudUnavailable, match=r"Shap-E made no mesh of 'a box' \(torch.cat.*non-empty.*\); change init_prompt or the seed"):
        initial_points(params(), RandomStreams(0))


def test_colours_that_are_not_finite(pipe, monkeypatch):
    called = Pipe.__call__

    def broken(*args, **options):
        [[mesh]] = called(*args, **options)
        mesh.vertex_channels["G"] = mesh.vertex_channels["G"] * float("nan")
        return [[mesh]]

    monkeypatch.setattr(Pipe, "__call__", broken)
    with pytest.raises(CloudUnavailable, match=r"Shap-E's mesh of 'a box' is not finite"):
        initial_points(params(), RandomStreams(0))


def test_a_mesh_that_is_not_finite(pipe):
    pipe.verts = pipe.verts * np.float32(np.nan)
    with pytest.raises(CloudUnavailable, match=r"Shap-E's mesh of 'a box' is not finite; change init_prompt"):
        initial_points(params(), RandomStreams(0))


# --- Shap-E that is not there -----------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path):
    with no_network(tmp_path):
        yield


def test_no_weights_is_a_sentence_and_no_sphere(offline, tmp_path):
    sentence = r"init_shape is 'shap_e' and Shap-E 'openai/shap-e' cannot be loaded \(.*\); connect to the network once or .*init_fallback: true .*init_points3d\.ply"
    with pytest.raises(ValueError, match=sentence):
        load_or_sample_points(tmp_path / "none.ply", params(), RandomStreams(0))
    assert not (tmp_path / "none.ply").exists()


@pytest.mark.parametrize("shape", ["shap_e", "pointe"])
def test_the_sphere_where_the_user_allows_it(offline, shape, caplog, monkeypatch):
    """Exactly init_shape sphere's points, and said so."""
    monkeypatch.setitem(sys.modules, "point_e", None)
    with caplog.at_level(logging.WARNING):
        cloud = initial_points(params(shape, init_fallback=True, init_num_pts=50), RandomStreams(4))
    sphere = initial_points(GenerateCamParams(init_num_pts=50), RandomStreams(4))
    assert np.array_equal(cloud.points, sphere.points) and np.array_equal(cloud.colors, sphere.colors)
    assert "starting from a sphere (init_fallback): GenerateCamParams.init_shape is" in caplog.text


@pytest.mark.parametrize(("contents", "found"), [({"_class_name": "StableDiffusionPipeline"}, "a StableDiffusionPipeline"), (["x"], "no readable model_index.json"), (None, "no readable model_index.json")])
def test_a_folder_of_something_else(tmp_path, contents, found):
    if contents:
        (tmp_path / "model_index.json").write_text(json.dumps(contents))
    with pytest.raises(CloudUnavailable, match=rf"shap_e_model_key: folder .* holds {found}; expected a ShapEPipeline"):
        load_shap_e(str(tmp_path))


def test_a_folder_in_the_home_folder_is_loaded_from_there(tmp_path, monkeypatch):
    from diffusers import ShapEPipeline

    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ShapEPipeline"}))
    monkeypatch.setattr(ShapEPipeline, "from_pretrained", lambda place, **options: place)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert load_shap_e(f"~/{tmp_path.name}") == str(tmp_path)
    assert load_shap_e("~nobody-of-this-name/model") == "~nobody-of-this-name/model"


def test_a_damaged_folder(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ShapEPipeline", "prior": ["diffusers", "PriorTransformer"]}))
    with pytest.raises(CloudUnavailable, match=r"cannot be loaded \(.*\); connect to the network once or give"):
        load_shap_e(str(tmp_path))


# --- Point-E ----------------------------------------------------------------------------------------------------------


class Sampler:
    """Stands where Point-E's sampler does."""

    def __init__(self, **options):
        self.options = options

    def sample_batch_progressive(self, batch_size, model_kwargs):
        self.asked = (batch_size, model_kwargs)
        yield "noise"
        yield torch.rand(5, 3)  # from the global stream, as Point-E draws

    def output_to_point_clouds(self, samples):
        channels = {name: np.full(5, value) for name, value in zip("RGB", (0.1, 0.2, 0.3))}
        return [SimpleNamespace(coords=samples.numpy(), channels=channels)]


class Network:
    def eval(self):
        self.ready = True

    def load_state_dict(self, state):
        self.state = state


@pytest.fixture
def point_e(monkeypatch):
    """A package of the shape of Point-E's; its samplers are listed."""
    made = []

    def sampler(**options):
        made.append(Sampler(**options))
        return made[-1]

    contents = {
        "point_e": {},
        "point_e.diffusion": {},
        "point_e.models": {},
        "point_e.diffusion.configs": {"DIFFUSION_CONFIGS": {"base40M-textvec": 1, "upsample": 2}, "diffusion_from_config": str},
        "point_e.diffusion.sampler": {"PointCloudSampler": sampler},
        "point_e.models.configs": {"MODEL_CONFIGS": {"base40M-textvec": 1, "upsample": 2}, "model_from_config": lambda config, device: Network()},
        "point_e.models.download": {"load_checkpoint": lambda name, device: name},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        module.__path__ = []
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_point_e_where_it_is_installed(point_e):
    """Both models are loaded, the last state is the cloud, the global random state is left as it was."""
    before = torch.random.get_rng_state()
    first, second = (initial_points(params("pointe", use_pointe_rgb=True, init_num_pts=5000), RandomStreams(seed)) for seed in (1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    options, asked = point_e[0].options, point_e[0].asked
    assert [model.state for model in options["models"]] == ["base40M-textvec", "upsample"]
    assert all(model.ready for model in options["models"]) and options["num_points"] == [1024, 3072]
    assert asked == (1, {"texts": ["a box"]})
    assert len(first.points) == 5 and first.colors[0] == pytest.approx([0.1, 0.2, 0.3], abs=2e-4)
    assert not np.array_equal(first.points, second.points)
    assert np.array_equal(initial_points(params("pointe", init_num_pts=5000), RandomStreams(1)).points, first.points)


@pytest.mark.parametrize("place", ["coords", "R", "B"])
def test_a_cloud_of_point_e_that_is_not_finite(point_e, monkeypatch, place):
    made = Sampler.output_to_point_clouds

    def broken(self, samples):
        [cloud] = made(self, samples)
        (cloud.coords if place == "coords" else cloud.channels[place])[1] = np.nan
        return [cloud]

    monkeypatch.setattr(Sampler, "output_to_point_clouds", broken)
    with pytest.raises(CloudUnavailable, match=r"Point-E's cloud of 'a box' is not finite; change init_prompt"):
        initial_points(params("pointe"), RandomStreams(0))


def test_point_e_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "point_e", None)
    with pytest.raises(ValueError, match=r"init_shape is 'pointe' and the package point_e is not installed .*set init_shape: shap_e, or set init_shape: sphere"):
        load_or_sample_points(tmp_path / "none.ply", params("pointe"), RandomStreams(0))
    assert not (tmp_path / "none.ply").exists()


def test_point_e_without_its_weights(point_e, monkeypatch):
    def refuse(name, device):
        raise OSError("no route to host")

    monkeypatch.setattr(sys.modules["point_e.models.download"], "load_checkpoint", refuse)
    with pytest.raises(CloudUnavailable, match=r"Point-E's weights are not available \(no route to host\); set init_shape"):
        initial_points(params("pointe"), RandomStreams(0))
