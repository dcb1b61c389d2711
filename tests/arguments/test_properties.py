# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a file or on a command line: a Config comes back, or a ConfigError. Every Config survives YAML."""

import warnings

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arguments import GROUPS, Config
from arguments.checks import contradictions
from arguments.command_line import owners
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config, to_yaml

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates() | st.binary(max_size=4)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)  # fmt: skip
KEY_NAMES = st.sampled_from(sorted(owners())) | st.text(max_size=8)
GROUP_NAMES = st.sampled_from([*GROUPS, "port", "seed", "device", "GuidanceParam"]) | st.text(max_size=8) | st.integers()
TREES = st.dictionaries(GROUP_NAMES, st.dictionaries(KEY_NAMES, VALUES, max_size=4) | VALUES, max_size=4)


def load_or_refuse(argv):
    """True: a Config; False: a ConfigError, every problem of which is printable. Nothing else may come out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert isinstance(load_config(argv), Config)
        except ConfigError as error:
            assert error.problems and str(error)
            return False
    return True


@QUICK
@given(TREES)
def test_any_yaml_mapping(tmp_path, tree):
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8", errors="surrogatepass")
    load_or_refuse(["--opt", str(path), "--text", "a mug"])


@QUICK
@given(st.binary(max_size=200) | st.text("[]{}&*!<>:-?#|,%@ \n\t\"'ab1.e~=", max_size=60).map(str.encode))
def test_any_bytes_as_a_file(tmp_path, data):
    path = tmp_path / "any.yaml"
    path.write_bytes(data)
    load_or_refuse(["--opt", str(path), "--text", "a mug"])


@pytest.mark.parametrize(
    "text",
    [
        "seed: 0x" + "f" * 9000,
        "seed: !!int 'x'",
        "seed: !!float 'x'",
        "seed: !!timestamp 'x'",
        "seed: !!binary '*'",
        "seed: !!set {a, b}",
        "seed: !!omap [a: 1]",
        "seed: &a [*a]",
        "a: &a {<<: *a}",
        "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nseed: [*g,*g,*g,*g,*g,*g,*g,*g]",
        "ModelParams: &m {_batch: *m}",
        "=: 1",
        "<<: 1",
    ],
)
def test_known_traps_of_yaml_are_refused(tmp_path, text):
    path = tmp_path / "trap.yaml"
    path.write_text(text)
    assert not load_or_refuse(["--opt", str(path), "--text", "a mug"])


FLAGS = st.sampled_from([f"--{name}" for name in owners()] + [f"--{g}.device" for g in GROUPS] + ["--set", "-s", "-w"])
WORDS = st.text(max_size=8) | st.sampled_from(["600", "-1", "true", "1e-4", "nan", "[1, 2]", "ModelParams.batch=3", "--", "-"])


@QUICK
@given(st.lists(FLAGS | WORDS, max_size=8))
def test_any_command_line(argv):
    if not {"-h", "--help"} & set(argv) and not any(word.startswith("-h") for word in argv):
        load_or_refuse(argv)


def _value(kind, spec):
    """Strategy for allowed values of a key."""
    if spec.choices:
        return st.sampled_from(spec.choices)
    if spec.device:
        return st.just("cuda:1")
    numbers = st.integers(-(2**40), 2**40) if "int" in str(kind) else st.floats(-1e6, 1e6) | st.floats(-4, 4) | st.floats(0, 1)
    numbers = numbers.filter(spec.allows)
    if kind is bool:
        return st.booleans()
    if "tuple" in str(kind):
        pair = st.tuples(numbers, numbers)
        return pair.map(lambda p: tuple(sorted(p))) if spec.ordered else pair if "..." not in str(kind) else st.lists(numbers, max_size=3).map(tuple)  # fmt: skip
    return st.text(max_size=20) if "str" in str(kind) else numbers


OPEN_KEYS = [
    (group, name)
    for group, (_, declared) in GROUPS.items()
    for name, (_, spec, _) in keys_of(declared).items()
    if spec.lo is None or spec.hi is None or spec.hi - spec.lo > 0.5
]


@QUICK
@given(st.data())
def test_every_config_survives_yaml(tmp_path, data):
    chosen = data.draw(st.lists(st.sampled_from(OPEN_KEYS), max_size=6, unique=True))
    parts = {}
    for attribute, declared in GROUPS.values():
        mine = {name: data.draw(_value(*keys_of(declared)[name][:2]), label=name) for group, name in chosen if GROUPS[group][1] is declared}  # fmt: skip
        parts[attribute] = declared(**({"text": "a mug"} if attribute == "guidance" else {}) | mine)
    device = "cuda:1" if any(name.endswith("device") for _, name in chosen) else "auto"
    config = Config(**parts, device=device)
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    texts = [getattr(parts[GROUPS[g][0]], n) for g, n in chosen]
    nothing_said = [t for t in texts if isinstance(t, str) and t.strip().lower() in ("none", "null", "~")]
    if list(contradictions(config)) or nothing_said:
        load_or_refuse(["--opt", str(path)])
    else:
        assert load_config(["--opt", str(path)]) == config
