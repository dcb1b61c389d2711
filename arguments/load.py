# SPDX-License-Identifier: Apache-2.0
"""Defaults, YAML (`base:` first), command line: one checked, frozen Config. Raises every config error."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from arguments import GROUPS, Config
from arguments.checks import Problem, contradictions, named_devices
from arguments.coerce import Unexpected, coerce, one_line, show
from arguments.command_line import CommandLineError, owners, read_words, value_of
from arguments.declare import keys_of
from arguments.paths import settled
from arguments.yaml_file import CONFIGS, find_settings, read_layers
from distillation import find_law, is_law_file

COMMAND_LINE = "command line"
LAW = "GuidanceParams.distillation"
MOST_GIVEN = 100
"""A file with so many keys is a resolved config.yaml."""
OPENED_BY = {"gui": {"ip", "port"}, "viewer": {"viewer_host", "viewer_port"}}
"""Switch of a viewer -> the keys that turn it on when the command line has them."""


class ConfigError(ValueError):
    """Settings with which no run can start. `problems` holds one sentence for each; the message holds all."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = [one_line(problem) for problem in problems]
        plural = "" if len(problems) == 1 else "s"
        super().__init__("\n  ".join([f"{len(problems)} problem{plural} in the settings:", *self.problems]))


def load_config(argv: list[str], *checks: Callable[[Config], Iterator[Problem]]) -> Config:
    """The settings of a run from the words of a command line, `--opt FILE` included.

    checks: more contradictions than those of arguments.checks, by what this folder cannot import.
    Raises ConfigError that lists every problem.
    """
    collector = _Collector()
    usable = collector.read(argv)
    config = collector.config()
    if usable:
        for check in (contradictions, *checks):
            collector.check(check(config))
    if collector.problems:
        raise ConfigError(collector.problems)
    return _with_one_device(config)


def to_tree(config: Config) -> dict[str, Any]:
    """Every setting as YAML has it: the top level, and a dictionary for each group."""
    tree: dict[str, Any] = {
        name: _plain(getattr(config, name)) for name, (_, spec, _) in keys_of(Config).items() if not spec.transient
    }
    for group, (attribute, declared) in GROUPS.items():
        params = getattr(config, attribute)
        tree[group] = {name: _plain(getattr(params, name)) for name in keys_of(declared)}
    return tree


def to_yaml(config: Config) -> str:
    """Every setting as YAML; fed back through --opt it gives an equal Config."""
    tree = to_tree(config)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    if yaml.safe_load(text) == tree:
        return text
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=False, width=120)  # U+0085 and its like need escapes


def nearest_key(group: str, name: str, of_file: bool) -> str | None:
    """The known key, as written in messages, closest to an unknown one; its own group is preferred.

    of_file: only among those that a file can hold.
    """
    best, best_score = None, 0.6
    for known, groups in owners().items():
        score = difflib.SequenceMatcher(None, name[:80].lower().lstrip("_"), known.lower()).ratio()
        for owner in groups:
            if of_file and keys_of(_declared(owner))[known][1].transient:
                continue
            preferred = score + (0.05 if owner == group else 0.0)
            if preferred > best_score:
                best, best_score = _label(owner, known), preferred
    return best


class _Collector:
    """State: the typed values by (group, key), the source of each, and the problems found."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Any] = {}
        self.sources: dict[str, str] = {}
        self.rejected: set[str] = set()
        self.problems: list[str] = []
        self.run_folder: Path | None = None  # of a run that is resumed by name
        self.own_file: str | None = None  # the YAML file of the command line, unless it is one of configs/
        self.layers: list[str] = []  # sources, each overrides those before it

    def read(self, argv: list[str]) -> bool:
        """Takes the YAML file, then the command line. False when a source could not be read at all."""
        try:
            words = read_words(argv)
        except CommandLineError as error:
            self.problems.append(f"{COMMAND_LINE}: {error}")
            return False
        single = {name: values[0] for group, name, values in words.settings if not group and len(values) == 1}
        path, run = single.get("opt"), single.get("resume")
        usable = all(name in single for group, name, _ in words.settings if not group and name in ("opt", "resume"))
        if run not in (None, "auto"):
            path = self._settings_of_run(Path(run), path)
            usable = path is not None
        if path is not None and usable:
            path, problem = find_settings(path)
            layers, problems = read_layers(path) if problem is None else ([], [problem])
            usable = bool(layers)
            self.own_file = path if usable and not Path(path).resolve().is_relative_to(CONFIGS) else None
            self.problems += problems
            for source, tree in layers:
                self.layers.append(source)
                self._take_file(source, tree)
        self.layers.append(COMMAND_LINE)
        for group, name, given in words.settings:
            self._take_words(group, name, given)
        for assignment in words.assignments:
            self._take_assignment(assignment)
        self._refuse_unknown(words.unknown)
        flags = [given for _, name, given in words.settings if name == "distillation"]
        if self._may_use_law(flags):
            self._take_preset()
        self._settle_folder()
        named = {name for group, name, _ in words.settings if not group}
        for viewer, places in OPENED_BY.items():
            if named & places:
                self.values.setdefault(("", viewer), True)
        return usable

    def _settle_folder(self) -> None:
        """A workspace of a later source than model_path's names the folder; --resume FOLDER allows neither."""
        labels = [f"ModelParams.{key}" for key in ("model_path", "workspace")]
        path, name = (self.sources.get(label) for label in labels)
        if path is not None and name is not None and self.layers.index(path) < self.layers.index(name):
            self.values["ModelParams", "model_path"] = ""
        for label in labels:
            if self.run_folder is not None and self.sources.get(label) == COMMAND_LINE:
                given = self.values["ModelParams", label.partition(".")[2]]
                expected = f"expected none, for --resume continues in {self.run_folder}"
                hint = "--start_checkpoint FILE begins another run from a checkpoint"
                self._reject(COMMAND_LINE, label, show(given), f"{expected}; {hint}")

    def _may_use_law(self, flags: list[list[str]]) -> bool:
        """Reads a law from its file, which only the flag --distillation may name: the file is a program."""
        name = self.values.get(("GuidanceParams", "distillation"), "")
        if not is_law_file(name):
            return True
        try:
            if name not in [settled(LAW, word) for given in flags for word in given]:
                raise ValueError(
                    f"a law's name; a file is run, so it is named by a flag alone: pass --distillation {name}"
                )
            find_law(name)
        except ValueError as error:
            del self.values["GuidanceParams", "distillation"]
            self._reject(self.sources.get(LAW, COMMAND_LINE), LAW, show(name), f"expected {error}")
            return False
        return True

    def _take_preset(self) -> None:
        """The numbers of the law that a source names, where neither that source nor a later one gives them."""
        name, source = self.values.get(("GuidanceParams", "distillation")), self.sources.get(LAW)
        if name is None or source is None or name == "auto":
            return
        for key, value in find_law(name).preset.items():
            label = f"GuidanceParams.{key}"
            given = self.sources.get(label)
            if given is None or self.layers.index(given) < self.layers.index(source):
                self._take(f"the preset of {name}", "GuidanceParams", key, value)

    def _settings_of_run(self, run: Path, opt: str | None) -> str | None:
        """The config.yaml of a run that is resumed: its folder is a path, or a name below output/."""
        folder = next((place for place in (run, Path("output") / run) if (place / "config.yaml").is_file()), None)
        if folder is None:
            expected = "expected auto, or the folder of a run, which holds config.yaml"
            self._problem(COMMAND_LINE, "resume", show(str(run)), expected)
        elif opt is not None:
            self._problem(COMMAND_LINE, "opt", show(opt), "expected none, the run's config.yaml is read")
        else:
            self.run_folder = folder
        return None if self.run_folder is None else str(self.run_folder / "config.yaml")

    def config(self) -> Config:
        """The Config of all values taken; a rejected value leaves the default in place."""
        parts: dict[str, Any] = {name: value for (group, name), value in self.values.items() if not group}
        parts["given"], parts["resumed"] = frozenset(self._given()), self.run_folder
        parts["flags"] = frozenset(label for label, source in self.sources.items() if source == COMMAND_LINE)
        for group, (attribute, declared) in GROUPS.items():
            mine = {name: value for (owner, name), value in self.values.items() if owner == group}
            parts[attribute] = declared(**mine)
        return Config(**parts)

    def _given(self) -> Iterator[str]:
        """Labels of what the user set, as Config.given has them; a resolved config.yaml sets nothing."""
        own = [source for source in self.sources.values() if source == self.own_file]
        for group, name in self.values:
            source = self.sources.get(_label(group, name))
            default = keys_of(_declared(group))[name][2]
            if source == COMMAND_LINE or (
                source == self.own_file and len(own) < MOST_GIVEN and self.values[group, name] != default
            ):
                yield _label(group, name)

    def check(self, found: Iterable[Problem]) -> None:
        """Adds the contradictions of keys that have no problem of their own."""
        for label, value, expected in found:
            if label not in self.rejected:
                self._problem(self.sources.get(label, "defaults"), label, value, f"expected {expected}")

    def _take_file(self, path: str, tree: dict[Any, Any]) -> None:
        for key, value in tree.items():
            if key not in GROUPS:
                self._take(path, "", key, value)
            elif isinstance(value, dict):
                spellings = dict[str, list[str]]()
                for name, item in value.items():
                    self._take(path, key, name, item)
                    if isinstance(name, str):
                        spellings.setdefault(_known_name(name), []).append(name)
                for bare, given in spellings.items():
                    if len(given) > 1:
                        other = next(name for name in given if name != bare)
                        self.problems.append(f"{path}: {key}.{bare} is given twice, also as {other}: expected once")
            elif value is not None:
                self._problem(path, key, show(value), "expected keys with values below it")

    def _take_words(self, group: str, name: str, words: list[str]) -> None:
        kind = keys_of(_declared(group))[name][0]
        try:
            value = value_of(words, kind)
        except ValueError as error:
            self._reject(COMMAND_LINE, _label(group, name), " ".join(words), f"expected {error}")
            return
        self._take(COMMAND_LINE, group, name, value)

    def _take_assignment(self, assignment: str) -> None:
        label, equals, text = assignment.partition("=")
        group, _, name = label.strip().rpartition(".")
        if not equals or not name:
            self._problem(COMMAND_LINE, "--set", show(assignment), "expected Group.key=value")
            return
        name = name.lstrip("_")
        if not group and len(owners().get(name, [])) == 1:
            group = owners()[name][0]
        if group in ("", *GROUPS) and name in keys_of(_declared(group)):
            self._take_words(group, name, [text])
        else:
            self._unknown(COMMAND_LINE, group, name, text)

    def _take(self, source: str, group: str, name: object, value: object) -> None:
        """One value of one key from one source."""
        bare = _known_name(name) if isinstance(name, str) and group else name
        known = keys_of(_declared(group))
        if bare not in known:
            self._unknown(source, group, name, value)
            return
        kind, spec, _ = known[bare]
        if spec.transient and source != COMMAND_LINE:
            self._problem(source, bare, show(value), f"expected only as a flag of one call: --{bare}")
            return
        try:
            self.values[group, bare] = settled(_label(group, bare), coerce(value, kind, spec))
            self.sources[_label(group, bare)] = source
        except Unexpected as error:
            close = difflib.get_close_matches(value, spec.choices, 1) if isinstance(value, str) else []
            hint = f" (did you mean {close[0]}?)" if close else ""
            self._reject(source, _label(group, bare), show(value), f"expected {error}{hint}")

    def _unknown(self, source: str, group: str, name: object, value: object) -> None:
        shown = name if isinstance(name, str) and name.isidentifier() else show(name)
        close = _nearest(group, name, source != COMMAND_LINE)
        hint = f" (did you mean {close}?)" if close else " (--help-all lists them)"
        kind = "group" if isinstance(value, dict) or (group and group not in GROUPS) else "key"
        self._problem(source, _label(group, str(shown)), show(value), f"expected a known {kind}{hint}")

    def _refuse_unknown(self, words: list[str]) -> None:
        """Reports flags that are not declared; words that follow such a flag belong to it."""
        after_flag = False
        for word in words:
            if word.startswith("-") and len(word) > 1:
                flag, _, value = word.partition("=")
                self._unknown_flag(flag, value)
                after_flag = True
            elif not after_flag:
                self.problems.append(f"{COMMAND_LINE}: {show(word)}: expected a flag such as --opt FILE")

    def _unknown_flag(self, flag: str, value: str) -> None:
        group, _, name = flag.lstrip("-").replace("-", "_").rpartition(".")
        sharing = owners().get(name, []) if not group else []
        if sharing:
            hint = f"ambiguous, expected one of {', '.join(f'--{owner}.{name}' for owner in sharing)}"
        else:
            close = _nearest(group, name)
            hint = f"expected a known flag ({f'did you mean {_as_flag(close)}?' if close else '--help-all lists them'})"
        self._problem(COMMAND_LINE, show(flag)[1:-1], show(value) if value else "", hint)

    def _reject(self, source: str, label: str, value: str, text: str) -> None:
        self.rejected.add(label)
        self._problem(source, label, value, text)

    def _problem(self, source: str, label: str, value: str, text: str) -> None:
        self.problems.append(f"{source}: {label}" + (f" = {value}" if value else "") + f": {text}")


def _nearest(group: str, name: object, of_file: bool = False) -> str | None:
    """The nearest group name or key for anything that stood where a key belongs."""
    if not isinstance(name, str) or not name:
        return None
    known_group = group in ("", *GROUPS)
    groups = {word.lower(): word for word in GROUPS}
    wanted = name if known_group and not group else group
    close = difflib.get_close_matches(wanted[:80].lower(), groups, 1, 0.7) if not group or not known_group else []
    if not close:
        return nearest_key(group, name, of_file)
    return groups[close[0]] if not group else f"{groups[close[0]]}.{name}"


def _known_name(name: str) -> str:
    """A key of a group as it is declared: without upstream's leading underscore."""
    return name.lstrip("_")


def _as_flag(label: str) -> str:
    group, _, name = label.rpartition(".")
    return f"--{name}" if len(owners().get(name, [])) == 1 or not group else f"--{label}"


def _label(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def _declared(group: str) -> type:
    return GROUPS[group][1] if group else Config


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _with_one_device(config: Config) -> Config:
    """The one device that any device key names becomes the top-level device."""
    named = set(named_devices(config).values())
    return dataclasses.replace(config, device=named.pop()) if named else config
