# SPDX-License-Identifier: Apache-2.0
"""The command line: upstream's flags, one flag for every key of every group, and --set Group.key=value.

--help lists COMMON, --help-all every flag. Values stay words here;
`arguments.load` turns them into typed values with the same code as YAML's.
"""

import argparse
import dataclasses
import functools
import itertools
import re
import shlex
from typing import Any, NoReturn

from arguments import GROUPS, Config
from arguments.coerce import expectation, in_words, is_pair, is_tuple, show
from arguments.declare import KeySpec, keys_of
from arguments.exit_codes import MEANING
from utils.program import Version, command_of

DESCRIPTION = "Text to 3D Gaussians. Settings: defaults < YAML file (--opt) < command line."
EPILOG = (
    "--help-all lists every setting; each is also --Group.key VALUE or --set Group.key=VALUE. "
    'Example: {command} --opt configs/quickstart.yaml --text "a red mug" --iterations 600. '
    f"Exit status: {'. '.join(f'{code}: {meaning}' for code, meaning in MEANING.items())}."
)
COMMON = {
    "what to make": ("text", "opt", "workspace", "negative", "seed"),
    "size and length": ("iterations", "C_batch_size", "image_w", "image_h", "init_num_pts", "sh_degree"),
    "diffusion model": ("guidance", "model_key", "LoRA_path", "perpneg", "vram_O", "device"),
    "distillation": ("distillation", "guidance_scale"),
    "CoGrad": ("CoGradParams.enabled",),
    "run and outputs": ("resume", "overwrite", "dry_run", "checkpoint_every", "save_ratio", "viewer", "quiet"),
}
"""Title -> keys that --help lists; Group.key where the name alone says little."""


class CommandLineError(ValueError):
    """Words that cannot be split into flags and values."""


class _Formatter(argparse.HelpFormatter):
    """Shows the values of a flag as its metavar says; their number is checked elsewhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=120)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)


class _Parser(argparse.ArgumentParser):
    """Takes every negative number for a value, "-1e-3" too, and raises CommandLineError instead of exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d[\d_.]*(e[-+]?\d+)?", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(message)


@dataclasses.dataclass(frozen=True)
class Words:
    """What the command line says: (group or "", key, words) in no order that matters, --set texts, the rest."""

    settings: list[tuple[str, str, list[str]]]
    assignments: list[str]
    unknown: list[str]


def owners() -> dict[str, list[str]]:
    """Key name -> groups that have it; "" is the top level and comes first."""
    found: dict[str, list[str]] = {name: [""] for name in keys_of(Config)}
    for group, (_, declared) in GROUPS.items():
        for name in keys_of(declared):
            found.setdefault(name, []).append(group)
    return found


class _Help(argparse.Action):
    """Prints the common flags, or all of them for --help-all, and ends the program."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        print((parser if option_string == "--help-all" else build_parser(common_only=True)).format_help())
        raise SystemExit(0)


@functools.cache
def build_parser(common_only: bool = False) -> _Parser:
    """A parser with a flag for every declared key, or those of COMMON; a name of two groups needs --Group.key."""
    prog = command_of("train.py")
    parser = _Parser(
        prog=prog,
        usage=f"{prog} --opt FILE [--text PROMPT] [--dry-run] [--KEY VALUE ...]",
        description=DESCRIPTION,
        epilog=EPILOG.format(command="python train.py" if prog == "train.py" else prog),
        allow_abbrev=False,
        add_help=False,
        formatter_class=_Formatter,
    )
    if common_only:
        _add_common(parser)
    section = parser.add_argument_group("help")
    for flags, what in ((("--help", "-h"), "the common settings"), (("--help-all",), "every setting")):
        section.add_argument(*flags, nargs=0, action=_Help, default=argparse.SUPPRESS, help=f"list {what} and stop")
    section.add_argument("--version", action=Version)
    if common_only:
        return parser
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="GROUP.KEY=VALUE", help="set any key")
    owned = owners()
    run = parser.add_argument_group("run")
    for name, (kind, spec, default) in keys_of(Config).items():
        _add(run, "", name, list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))), kind, spec, default)
    for group, (_, declared) in GROUPS.items():
        section = parser.add_argument_group(group, (declared.__doc__ or "").splitlines()[0])
        for name, (kind, spec, default) in keys_of(declared).items():
            plain = [f"--{name}"] if owned[name] == [group] else []
            _add(section, group, name, [*plain, f"--{group}.{name}", *spec.aliases], kind, spec, default)
    return parser


def _add_common(parser: _Parser) -> None:
    groups = {"": Config, **{group: declared for group, (_, declared) in GROUPS.items()}}
    for title, names in COMMON.items():
        section = parser.add_argument_group(title)
        for name in names:
            key = name.rpartition(".")[2]
            group = next(group for group, declared in groups.items() if key in keys_of(declared))
            kind, spec, default = keys_of(groups[group])[key]
            flag = f"--{name.replace('_', '-')}" if name == "dry_run" else f"--{name}"
            _add(section, group, key, [flag, *spec.aliases], kind, spec, default)


def _add(section: Any, group: str, name: str, flags: list[str], kind: Any, spec: KeySpec, default: Any) -> None:
    text = f"{spec.help} [{expectation(kind, spec)}; default {in_words(default)}]"
    text = (text + " (not used)" if spec.unread else text).replace("%", "%%")
    metavar = "LO HI" if is_pair(kind) else "N ..." if is_tuple(kind) else "[BOOL]" if kind is bool else "VALUE"
    dest = f"{group}.{name}"
    section.add_argument(*flags, dest=dest, nargs="*", default=argparse.SUPPRESS, metavar=metavar, help=text)


def read_words(argv: list[str]) -> Words:
    """Splits a command line. Raises CommandLineError; prints the help and exits on --help and --help-all."""
    parser = build_parser()
    _refuse_dashed_values(argv, parser)
    known, unknown = parser.parse_known_args(argv)
    found = vars(known)
    assignments = found.pop("set")
    settings = [(*address.split(".", 1), words) for address, words in found.items()]
    return Words([(group, name, words) for group, name, words in settings], assignments, unknown)


def _refuse_dashed_values(argv: list[str], parser: _Parser) -> None:
    """CommandLineError for a text that starts with a dash where a flag wants its value: --text "-robot"."""
    flags = parser._option_string_actions
    for flag, word in itertools.pairwise(argv):
        takes_one = flag in flags and flags[flag].metavar == "VALUE"
        is_flag = word.split("=")[0] in flags or re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?", word, re.DOTALL)
        is_clear = is_flag or (" " in word and word[:2] not in flags) or parser._negative_number_matcher.fullmatch(word)
        if takes_one and word.startswith("-") and len(word) > 1 and not is_clear:
            raise CommandLineError(
                f"{flag} {show(word)}: a value that starts with a dash needs an equals sign: "
                f"{flag}={shlex.quote(word[:80])}"
            )


def value_of(words: list[str], kind: Any) -> object:
    """The words of one flag as coerce() takes them. Raises ValueError when their number is wrong."""
    if is_tuple(kind):
        inside = " ".join(words).strip().strip("[]()")
        return [word for word in re.split(r"[\s,]+", inside) if word]
    if kind is bool and not words:
        return "true"
    if len(words) != 1:
        raise ValueError(f"one value, {len(words)} given" + ("; put text in quotes" if len(words) > 1 else ""))
    return words[0]
