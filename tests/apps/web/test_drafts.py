# SPDX-License-Identifier: Apache-2.0
"""What a browser keeps of the form, and the settings of an earlier run in it."""

import dataclasses
import json

import pytest

from apps.web.compare import differences
from apps.web.drafts import NOT_TAKEN, UNKNOWN_WORDS, first_draft, from_text, of_run, to_text, with_another_seed
from apps.web.fields import PLAIN, Request
from apps.web.job import Job
from apps.web.presets import HEIGHT, STEPS, WIDTH, preset_of, presets
from arguments.load import ConfigError

TYPED = Request(
    preset_of("toy_trained", "fine"), 'a "red" mug\n</script>', "blur", "x7", {STEPS: "abc", "GuidanceParams.sds": "true"}
)


def test_a_browser_gives_back_what_was_typed() -> None:
    assert from_text(to_text(TYPED)) == TYPED and from_text(to_text(first_draft())) == first_draft()


@pytest.mark.parametrize("text", [None, 5, "", "[", "[" * 100_000, "[]", "null", "{}", '{"preset": []}'])
def test_what_is_not_understood_is_as_on_a_first_visit(text) -> None:
    assert from_text(text) == first_draft()


def test_a_draft_of_another_version_keeps_what_is_known() -> None:
    kept = {"preset": "gone", "quality": "superb", "prompt": "\ud800" + "a" * 5000, "seed": 7,
            "changed": {"overwrite": "true", "no.such": "1", STEPS: "12", "device": 3}}  # fmt: skip
    draft = from_text(json.dumps(kept))
    assert draft.preset == first_draft().preset and draft.seed == "0" and draft.changed == {STEPS: "12", "device": ""}
    assert draft.prompt == "?" + "a" * 1999


@pytest.mark.parametrize("quality", ["draft", "normal", "fine"])
@pytest.mark.parametrize("name", ["quickstart", "toy_trained", "prompt"])
def test_the_settings_of_a_run_fill_the_form(tmp_path, name, quality) -> None:
    """Same again is the same run; a confirmation that was given for its prompt is not."""
    changed = {"CoGradParams.t_jitter": "77", UNKNOWN_WORDS: "true"}
    request = Request(preset_of(name, quality), "a red mug", "blur", "7", changed)
    job = Job.create(request.resolve(), tmp_path)
    again = of_run(job.folder)
    assert again == dataclasses.replace(request, changed={"CoGradParams.t_jitter": "77"})
    del changed[UNKNOWN_WORDS]
    assert again.resolve() == request.resolve()
    other = with_another_seed(again)
    assert other.seed != "7" and dataclasses.replace(other, seed="7") == again


def test_settings_that_cannot_be_read_are_refused(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("OptimizationParams: {iterations: nine}")
    with pytest.raises(ConfigError, match="iterations"):
        of_run(tmp_path)


def test_two_runs_differ_in_what_differs(tmp_path) -> None:
    first, second = (
        Job.create(Request(preset_of("quickstart", quality), prompt, seed=seed).resolve(), tmp_path)
        for quality, prompt, seed in (("normal", "a red mug", "0"), ("fine", "a red owl", "3"))
    )
    rows = list(differences(first.folder, second.folder))
    assert rows[:2] == [("Prompt", "a red mug", "a red owl"), ("Seed", "0", "3")]
    own, fine = (presets()["quickstart"].config, preset_of("quickstart", "fine").config)
    assert ("Size", str(own.cameras.image_w), str(fine.cameras.image_w)) in rows
    names = {name for name, _, _ in rows[2:]}
    assert names >= {"Size", "GuidanceParams.ideal_images"} and "ModelParams.model_path" not in names
    assert list(differences(first.folder, first.folder)) == []
    assert {WIDTH, HEIGHT}.isdisjoint(name for name, _, _ in rows)


def test_what_the_page_sets_itself_is_no_difference(tmp_path) -> None:
    """Panels by the number of steps, and a confirmation: steps are one, of which they follow."""
    request = Request(preset_of("quickstart", "normal"), "a red mug", seed="0")
    changes = ({}, {STEPS: "60", **dict.fromkeys(NOT_TAKEN - {UNKNOWN_WORDS}, "7")}, {STEPS: "60", UNKNOWN_WORDS: "true"})
    first, *others = (Job.create(dataclasses.replace(request, changed=changed).resolve(), tmp_path) for changed in changes)
    for other in others:
        assert [name for name, _, _ in differences(first.folder, other.folder)] == [PLAIN.get(STEPS, STEPS)]
