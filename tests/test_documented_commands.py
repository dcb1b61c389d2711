# SPDX-License-Identifier: Apache-2.0
"""Every command of README and docs is tried: really, made small; up to the weights that are missing; or read by its program.

The first rule that fits a command says how. A command without a rule fails, as does a rule without a command.
"""

import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import yaml

import train
from arguments import Config
from arguments.load import load_config
from tests.documented.commands import ROOT, Command, commands, parts
from tests.documented.running import SMALL, Checkout, Understood, only_read, program
from tests.offline import no_network
from tools import reproduce
from toy import ideal
from toy.rendered_set import render_set

WRITTEN = commands()
COMMANDS = list({command.words: command for command in reversed(WRITTEN)}.values())[::-1]
"""Each once, as the first page has it."""
TURN = ("--size_px", "64", "--frames", "4")
SMALLER = {"tools/score_toy.py": ("--size", "32"), "tools/turntable.py": TURN, "tools/side_by_side.py": TURN}
"""What makes a program that is run quicker."""
WITHOUT_WEIGHTS = "is not in the local cache and could not be downloaded|cannot be loaded|is not installed"


def trains(command: Command, checkout: Checkout) -> None:
    """The run that the command begins comes to its end: two small steps."""
    words = checkout.words(command)[2:]
    again = () if "--resume" in words or "--overwrite" in words else ("--overwrite",)
    small = [*SMALL, "viewer_port=0"] if "--viewer" in words else SMALL  # another program may have the usual port
    if tuple(words) in checkout.tried:
        return
    checkout.tried.add(tuple(words))
    assert train.main([*words, *again, *small]) == 0
    run = load_config([*words, *again, *small]).output_dir
    assert list(run.glob("point_cloud/iteration_*/point_cloud.ply"))


def stops_without_weights(command: Command, checkout: Checkout) -> None:
    """Settings are good, the run begins, and one sentence says which weights are missing."""
    with no_network(checkout.folder):
        assert train.main([*checkout.words(command)[2:], "--overwrite", *SMALL]) == 2
    checkout.expect(WITHOUT_WEIGHTS)


def is_refused(command: Command, checkout: Checkout) -> None:
    """An example of a mistake: what the document shows below it is what is printed."""
    assert train.main(checkout.words(command)[2:]) == 2
    shown = re.search(
        rf"\$ {re.escape(str(command))}\n((?:train.py|  ).*\n)+", (ROOT / command.page).read_text("utf-8")
    )
    assert shown and shown[0].split("\n", 1)[1].strip() == checkout.printed().strip()


def prints_and_stops(command: Command, checkout: Checkout) -> None:
    """--help, --help-all and --dry-run."""
    words = checkout.words(command)[2:]
    if {"--help", "--help-all"} & set(words):
        with pytest.raises(SystemExit, match="0"):
            train.main(words)
    else:
        assert train.main(words) == 0
    checkout.expect("iterations")


def splits_over_processes(command: Command, checkout: Checkout) -> None:
    """torchrun and train.py both take their words; tests/test_torchrun.py trains with two processes."""
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(checkout.words(command)[1:])
    processes, views = int(given.nproc_per_node), load_config(given.training_script_args).guidance.C_batch_size
    assert given.training_script == "train.py" and processes <= views


def runs(command: Command, checkout: Checkout) -> None:
    """The program does what it does, on a run of two steps; once for each line, whatever the page."""
    words = checkout.words(command)
    if tuple(words) not in checkout.tried:
        checkout.tried.add(tuple(words))
        main, rest = program(words)
        assert main([*rest, *SMALLER.get(words[1], ())]) in (0, None)


def is_read(command: Command, checkout: Checkout) -> None:
    """The program takes its words; doing it needs a GPU, weights, a network or more time. --help is printed."""
    main, words = program(checkout.words(command))
    with only_read(), pytest.raises((Understood, SystemExit)) as ended:
        main(words)
    assert ended.type is Understood or ended.value.code == 0


def is_read_by_train(command: Command, checkout: Checkout) -> None:
    """A benchmark that hands its words to train.py."""
    main, words = program(checkout.words(command))
    assert callable(main) and load_config(["--opt", "configs/quickstart.yaml", *words])


def is_there(command: Command, checkout: Checkout) -> None:
    """A program whose words are files: it exists and has a main."""
    assert callable(program(checkout.words(command))[0])


def tells_the_cost(command: Command, checkout: Checkout) -> None:
    """tools/reproduce.py checks all it would do, and its cost, before it begins; what takes long on one GPU says --yes."""
    main, words = program(checkout.words(command))
    (checkout.folder / "prompts.txt").write_text("a red mug\n")
    before, dashes, after = words, [], []
    if "--" in words:
        before, dashes, after = words[: words.index("--")], ["--"], words[words.index("--") + 1 :]
    if "--ray" in before:  # no cluster is here
        is_read(command, checkout)
        before.remove("--ray")
    assert main([*before, "--jobs", "1", "--dry_run", *dashes, *after]) == 0
    hours = re.search(r"about ([\d.,]+) hours", checkout.printed())
    is_short = hours is None or float(hours[1].replace(",", "")) <= reproduce.CONFIRM_FROM_HOURS
    assert is_short or {"--yes", "--dry_run"} & set(before), f"{command.page}: is refused without --yes: {command}"


def lines_of(told: str) -> Iterator[str]:
    """What make would run, each turn of its loop over scripts as a line."""
    for line in told.splitlines():
        loop = re.match(r"for script in (.*?); do", line)
        yield from (f".venv/bin/python {script}" for script in loop[1].split()) if loop else (line,)


def resolves(command: Command, checkout: Checkout) -> None:
    """make knows the target, and every program that it would start is tried by a rule of this file too."""
    told = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for line in lines_of(told.stdout):
        if re.match(r"\S*bin/python (?!-m pip)\S*(\.py|-m pytest|-m tests)", line):
            for part in parts(f"make: {command}", line):
                rule_of(part).outcome(part, checkout)


def collects(command: Command, checkout: Checkout) -> None:
    """Folders, files, marks and names that pytest is asked for are there."""
    words = list(command.words[1:] if command.words[0] == "pytest" else command.words[3:])
    marks = {
        mark.split(":")[0]
        for mark in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    }
    flags = {flag: words.pop(words.index(flag) + 1) for flag in ("-m", "-k", "-n", "--dist") if flag in words}
    places = [ROOT / word for word in words if not word.startswith("-")] or [ROOT / "tests"]
    text = "".join(
        path.read_text("utf-8")
        for place in places
        for path in ([place] if place.is_file() else place.rglob("test_*.py"))
    )
    assert text, "no tests there"
    if "-m" in flags:
        named = set(re.findall(r"\w+", flags["-m"])) - {"not", "or", "and"}
        assert named and named <= marks
        assert all(f"pytest.mark.{mark}" in text for mark in named)
    if "-k" in flags:
        assert flags["-k"] in text or any(flags["-k"] in str(place) for place in (ROOT / "tests").rglob("*.py"))


def makes_the_environment(command: Command, checkout: Checkout) -> None:
    """The files that conda and pip are given are there; tests/test_environment.py looks into them."""
    files = [word for word in command.words if re.search(r"\.(yml|txt|lock)$", word)]
    assert files and all((ROOT / file).is_file() for file in files)
    name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    assert "activate" not in command.words or name in command.words


def fetches_a_pin(command: Command, checkout: Checkout) -> None:
    """What pip is asked for is pinned in a file of requirements."""
    pins = [pin for path in ROOT.glob("requirements*.txt") for pin in path.read_text().splitlines()]
    asked = command.words[-1].partition("[")[0]
    assert any(pin.startswith(f"{asked}==") or pin == asked for pin in pins)


def is_installed(command: Command, checkout: Checkout) -> None:
    """Projects that pip can build, an extra, or a console command; tests/test_install.py installs and runs them."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    scripts, extras = table["project"]["scripts"], table["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for word in command.words:
        assert not word.startswith(".") or (ROOT / word / "pyproject.toml").is_file()
        assert not word.startswith("cograd3d-") or word in scripts
        assert not word.startswith("cograd3d[") or word.removeprefix("cograd3d[").removesuffix("]") in extras


def is_installed_module(command: Command, checkout: Checkout) -> None:
    """tests/submodules/test_cuda_build.py runs it."""
    assert importlib.util.find_spec(f"{command.words[2]}.__main__")


def ray_takes_it(command: Command, checkout: Checkout) -> None:
    """The subcommand and its flags are Ray's; nothing is started."""
    name, *words = command.words[1:]
    assert pytest.importorskip("ray.scripts.scripts").cli.commands[name].make_context(name, words).params


def leads_to_the_page(command: Command, checkout: Checkout) -> None:
    """The port that is brought here is the one at which the viewer's page is, unless told otherwise."""
    here, host, there = command.words[command.words.index("-L") + 1].split(":")
    assert (host, int(there)) == (Config().viewer_host, Config().viewer_port) and here == there


@dataclass(frozen=True)
class Rule:
    """Commands that begin with a match of `pattern` are tried by `outcome`."""

    pattern: str
    outcome: Callable[[Command, Checkout], None]


NEEDS_WEIGHTS = r"(?!.*quickstart|.*toy|.*fine\.yaml).*configs/\w+\.yaml"
RULES = [
    Rule(r"pip install (--\S+ )*\.|pip install 'cograd3d\[|cograd3d-|torchrun \S+ -m cograd3d ", is_installed),
    Rule(r"python train\.py (.* )?(--help|--help-all|--dry-run)\b", prints_and_stops),
    Rule(r"python train\.py .*--iteratoins", is_refused),
    Rule(rf"python train\.py {NEEDS_WEIGHTS}", stops_without_weights),
    Rule(r"python train\.py ", trains),
    Rule(r"torchrun ", splits_over_processes),
    Rule(
        r"python tools/(score_toy|compare_upstream|contact_sheet|turntable|side_by_side|show_cameras|document_settings)\.py ",
        runs,
    ),
    Rule(r"python -m tools\.export .*--format (html|ply|splat|spz|sog|gsglb|\s)+$", runs),
    Rule(r"python tools/reproduce\.py (?!.*--(report_only|verify))", tells_the_cost),
    Rule(r"python (tools/cuda_report|tools/compile_sm70|examples/\w+)\.py", is_there),
    Rule(r"python benchmarks/quickstart\.py", is_read_by_train),
    Rule(r"python (app\.py|(-m )?(tools|benchmarks|tests)[./]\S+)", is_read),
    Rule(r"make ", resolves),
    Rule(r"(python -m )?pytest ", collects),
    Rule(r"python -m diff_gaussian_rasterization$", is_installed_module),
    Rule(r"conda |pip install (--no-deps --require-hashes )?-r ", makes_the_environment),
    Rule(r"pip (download|install) ", fetches_a_pin),
    Rule(r"ray ", ray_takes_it),
    Rule(r"ssh -L ", leads_to_the_page),
]


def rule_of(command: Command) -> Rule:
    """The first rule that fits."""
    found = next((rule for rule in RULES if re.match(rule.pattern, str(command))), None)
    assert found is not None, f"{command.page}: no rule of {__name__} says how to try: {command}"
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Checkout]:
    """One copy for all commands. The ideal prior looks at 16 pictures, not at hundreds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ideal, "render_set", lambda specs, ranges, size_px, *_: render_set(specs, ranges, size_px, 16))
        yield Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def checkout(made, monkeypatch, capsys) -> Checkout:
    """The checkout as the working folder."""
    monkeypatch.chdir(made.folder)
    made.capsys = capsys
    return made


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command}")
def test_a_documented_command(command, checkout) -> None:
    rule_of(command).outcome(command, checkout)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_a_rule_has_a_command(rule) -> None:
    assert any(rule_of(command) is rule for command in COMMANDS)


def test_commands_were_found() -> None:
    assert len(COMMANDS) > 60 and {"README.md", "docs/evaluation.md", "tools/janus.py"} <= {
        command.page for command in WRITTEN
    }


@pytest.mark.parametrize(
    "line",
    [
        "python tools/score_toy.py RUN --no_such_flag",
        "make no-such-target",
        "pytest -m no_such_mark",
        "python tools/gone.py RUN",
        "python tools/ablate_toy.py --out NOWHERE",
        "python tools/reproduce.py --count 2",
        "python tools/reproduce.py --count 2 --ray",
    ],
)
def test_a_wrong_command_is_noticed(line, checkout) -> None:
    (command,) = parts("a test", line)
    with pytest.raises((AssertionError, SystemExit)):
        rule_of(command).outcome(command, checkout)


def test_a_command_nobody_knows_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no rule"):
        rule_of(Command("a test", ("snakemake", "all")))
