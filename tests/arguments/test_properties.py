# SPDX-License-Identifier: Apache-2.0
"""Every Config survives YAML. That nothing but a Config or a ConfigError comes out is tests/fuzzing's."""

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arguments import GROUPS, Config
from arguments.checks import contradictions
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config, to_yaml
from tests.fuzzing.settings_target import OPEN_KEYS, value_of_key

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@QUICK
@given(st.data())
def test_every_config_survives_yaml(tmp_path, data):
    chosen = data.draw(st.lists(st.sampled_from(OPEN_KEYS), max_size=6, unique=True))
    parts = {}
    for attribute, declared in GROUPS.values():
        mine = {name: data.draw(value_of_key(*keys_of(declared)[name][:2]), label=name) for group, name in chosen if GROUPS[group][1] is declared}  # fmt: skip
        parts[attribute] = declared(**({"text": "a mug"} if attribute == "guidance" else {}) | mine)
    device = "cuda:1" if any(name.endswith("device") for _, name in chosen) else "auto"
    config = Config(**parts, device=device)
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    texts = [getattr(parts[GROUPS[g][0]], n) for g, n in chosen]
    nothing_said = [t for t in texts if isinstance(t, str) and t.strip().lower() in ("none", "null", "~")]
    if list(contradictions(config)) or nothing_said:
        with contextlib.suppress(ConfigError):
            load_config(["--opt", str(path)])
    else:
        assert load_config(["--opt", str(path)]) == config
