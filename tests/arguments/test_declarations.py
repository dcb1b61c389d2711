# SPDX-License-Identifier: Apache-2.0
"""The declared keys against upstream's recorded defaults, and every default against its own declaration."""

import dataclasses
import json
from pathlib import Path

import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden/arguments.json").read_text())
DEVICE_KEYS = {("ModelParams", "data_device"), ("GuidanceParams", "g_device"), ("GenerateCamParams", "device")}

UPSTREAMS_TOP_LEVEL = {
    "opt", "ip", "port", "seed", "device", "debug_from", "detect_anomaly", "test_ratio", "save_ratio", "save_video", "quiet",
    "checkpoint_iterations", "start_checkpoint",
}  # fmt: skip
"""Of its YAML files and of its command line."""


def plain(value):
    """Tuples as JSON has them."""
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("group", sorted(GOLDEN["defaults"]))
def test_every_upstream_key_has_upstreams_default(group):
    declared = keys_of(GROUPS[group][1])
    for name, default in GOLDEN["defaults"][group].items():
        ours = declared[name.lstrip("_")][2]
        if (group, name) in DEVICE_KEYS:
            assert (ours, default) == ("auto", "cuda")  # the listed exception: follow the top-level device
        else:
            assert plain(ours) == default, (group, name)
            assert isinstance(ours, bool) == isinstance(default, bool), (group, name)


@pytest.mark.parametrize("group", [*GROUPS, ""])
def test_new_declares_what_upstream_does_not_have_and_key_the_rest(group):
    declared = keys_of(GROUPS[group][1] if group else Config)
    upstreams = {name.lstrip("_") for name in GOLDEN["defaults"].get(group, {})} if group else UPSTREAMS_TOP_LEVEL
    assert {name for name, (_, spec, _) in declared.items() if not spec.ours} == upstreams


def test_config_is_frozen_and_groups_match_its_attributes():
    config = Config()
    for attribute, group in GROUPS.values():
        assert isinstance(getattr(config, attribute), group)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(getattr(config, attribute), next(iter(keys_of(group))), 1)


@pytest.mark.parametrize("group", [Config, *(group for _, group in GROUPS.values())])
def test_every_field_is_declared_with_help_and_a_default_within_its_bounds(group):
    attributes = {*(attribute for attribute, _ in GROUPS.values()), "given", "flags", "resumed"} if group is Config else set()
    assert {field.name for field in dataclasses.fields(group)} - attributes == set(keys_of(group))
    for name, (_, spec, default) in keys_of(group).items():
        assert spec.help, name
        numbers = default if isinstance(default, tuple) else (default,)
        for number in numbers:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                assert spec.allows(number), name
        if spec.choices:
            assert default in spec.choices


def test_output_dir_is_model_path_or_workspace():
    config = Config()
    assert config.output_dir == Path("output/debug")
    model = dataclasses.replace(config.model, model_path="elsewhere/run")
    assert dataclasses.replace(config, model=model).output_dir == Path("elsewhere/run")
