# SPDX-License-Identifier: Apache-2.0
"""YAML files, command lines and cfg_args files."""

import contextlib
import io
import json
import tempfile
import warnings
from pathlib import Path

import yaml
from hypothesis import strategies as st

from arguments import GROUPS, Config
from arguments.cfg_args import read_cfg_args
from arguments.command_line import owners
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config, to_yaml
from tests.fuzzing.engine import CORPUS, LawBroken, Target
from tests.fuzzing.mutations import damaged

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
YAML_TOKENS = [
    b"&a ", b"*a", b"<<: *a\n", b"[", b"{", b"]", b"- ", b": ", b"? ", b"!!python/object:os.system ", b"!!set ", b"!!binary ",
    b"!!timestamp ", b"!!int ", b"!!omap ", b"|\n", b">-\n", b"\t", b"---\n", b"...\n", b"%YAML 1.1\n", b"\xff", b"\xef\xbb\xbf",
    b"base: good.yaml\n", b"base: /dev/zero\n", b"text: ", b"device: cuda:1\n", b"\x00", b"\xc2\x85", b"seed: ", b"#",
]  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates() | st.binary(max_size=4)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)  # fmt: skip
KEY_NAMES = st.sampled_from(sorted(owners())) | st.text(max_size=8)
GROUP_NAMES = (
    st.sampled_from([*GROUPS, "base", "port", "seed", "device", "GuidanceParam"]) | st.text(max_size=8) | st.integers()
)
TREES = st.dictionaries(GROUP_NAMES, st.dictionaries(KEY_NAMES, VALUES, max_size=4) | VALUES, max_size=4)
FLAGS = st.sampled_from([f"--{n}" for n in owners()] + [f"--{g}.{n}" for g, (_, d) in GROUPS.items() for n in keys_of(d)] + ["--set", "-s", "-w", "-h", "--help"])  # fmt: skip
WORDS = st.text(max_size=8) | st.sampled_from(["600", "-1", "true", "1e-4", "nan", "[1, 2]", "ModelParams.batch=3", "--", "-", "../..", "\0"])  # fmt: skip


def value_of_key(kind, spec):
    """Strategy for allowed values of a key."""
    if spec.choices:
        return st.sampled_from(spec.choices)
    if spec.device:
        return st.just("cuda:1")
    numbers = (
        st.integers(-(2**40), 2**40)
        if "int" in str(kind)
        else st.floats(-1e6, 1e6) | st.floats(-4, 4) | st.floats(0, 1)
    )
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


@st.composite
def allowed(draw: st.DrawFn) -> bytes:
    """A file of settings each of which is allowed."""
    tree: dict[str, dict[str, object]] = {"GuidanceParams": {"text": "a mug"}}
    for group, name in draw(st.lists(st.sampled_from(OPEN_KEYS), max_size=5)):
        value = draw(value_of_key(*keys_of(GROUPS[group][1])[name][:2]))
        tree.setdefault(group, {})[name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree).encode()


def _one_line(problem: str) -> None:
    if not problem.strip() or "\n" in problem or len(problem) > 2000:
        raise LawBroken(f"no sentence: {problem[:100]!r} ({len(problem)} characters)")


def law_of_settings(given: tuple[list[str], bytes | None]) -> bool:
    """A Config that its own YAML gives again, or a ConfigError of sentences; --help prints and ends well."""
    words, content = given
    if content is not None:
        path = FOLDER / "given.yaml"
        path.write_bytes(content)
        words = [*words, "--opt", str(path), "--text", "a mug"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            config = load_config(words)
        except ConfigError as error:
            for problem in error.problems:
                _one_line(problem)
            return False
        except SystemExit as end:
            if end.code == 0:
                return True
            raise LawBroken(f"exit {end.code}") from end
    _check_round_trip(config)
    return True


def _check_round_trip(config: Config) -> None:
    text = to_yaml(config)
    path = FOLDER / "resolved.yaml"
    path.write_text(text, encoding="utf-8")
    if to_yaml(load_config(["--opt", str(path)])) != text:
        raise LawBroken("the resolved config read back is another")


def _read_settings(path: Path) -> tuple[list[str], bytes | None]:
    """*.yaml is a file given to --opt, *.json the words of a command line."""
    if path.suffix == ".yaml":
        return [], path.read_bytes()
    return json.loads(path.read_text(encoding="utf-8")), None


def law_of_cfg_args(content: bytes) -> bool:
    """Keys and plain values, or a ValueError of one sentence."""
    path = FOLDER / "cfg_args"
    path.write_bytes(content)
    try:
        values = read_cfg_args(path)
    except ValueError as error:
        _one_line(str(error))
        return False
    if not all(isinstance(name, str) for name in values):
        raise LawBroken("a key that is no text")
    return True


def _files(name: str, suffix: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).glob(f"*{suffix}"))]


CONTENTS = (
    allowed()
    | damaged(_files("settings", ".yaml"), YAML_TOKENS)
    | TREES.map(lambda tree: yaml.safe_dump(tree).encode("utf-8", "surrogatepass"))
)
SETTINGS = Target(
    "settings",
    st.tuples(st.just([]) | st.lists(FLAGS | WORDS, max_size=4), CONTENTS)
    | st.tuples(st.lists(FLAGS | WORDS, max_size=8), st.none()),
    law_of_settings,
    _read_settings,
)
CFG_ARGS = Target(
    "cfg_args",
    damaged(
        _files("cfg_args", ".txt"),
        [b"Namespace(", b"(", b"[", b"-", b"**{}", b"x=", b"lambda:", b"'", b"{1:", b"~", b"1e9"],
    ),
    law_of_cfg_args,
    Path.read_bytes,
)
