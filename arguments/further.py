# SPDX-License-Identifier: Apache-2.0
"""Words for train.py that follow `--` on a tool's command line, beside what the tool sets itself."""

from collections.abc import Mapping, Sequence

from arguments.command_line import CommandLineError, owners, read_words

RUN = {"opt": "the tool", "overwrite": "the tool", "resume": "the tool", "dry_run": "the tool"}
RUN |= {"ModelParams.model_path": "--out", "ModelParams.workspace": "--out"}
"""What every tool sets that makes runs of train.py: Group.key, or key of the top level -> by what."""


def labels_of(words: Sequence[str]) -> list[str]:
    """The settings that words of train.py's command line give, as Group.key or key. Raises CommandLineError."""
    read = read_words(list(words))
    labels = [f"{group}.{name}" if group else name for group, name, _ in read.settings]
    for assignment in read.assignments:
        group, _, name = assignment.partition("=")[0].strip().rpartition(".")
        name = name.lstrip("_")
        labels.append(f"{group}.{name}" if group else label_of(name))
    return labels


def label_of(name: str) -> str:
    """Group.key of a setting that is named by its key alone, or as Group.key already."""
    group = owners().get(name, [""])[0]
    return f"{group}.{name}" if group else name


def flag_of(label: str) -> str:
    """The shortest flag of a setting: --text, --CoGradParams.enabled where several groups have that name."""
    name = label.rpartition(".")[2]
    return f"--{name}" if len(owners().get(name, [])) == 1 else f"--{label}"


def refuse_set(further: Sequence[str], set_by: Mapping[str, str]) -> None:
    """ValueError, one sentence, where `further` gives a setting of `set_by`, which would have no effect or undo it.

    set_by: Group.key or key -> what sets it. Words that cannot be read are left for `load_config` to report.
    """
    try:
        given = labels_of(further)
    except CommandLineError:
        return
    for label in given:
        if label in set_by:
            raise ValueError(f"`{flag_of(label)}` is set by {set_by[label]}; leave it out")
