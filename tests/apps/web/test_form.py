# SPDX-License-Identifier: Apache-2.0
"""Settings as fields, presets, and what is told before anything starts."""

import pytest

from apps.web.fields import OWNED, PREVIEWS, PROMPT, SEED, Request, fields, with_previews
from apps.web.messages import faults
from apps.web.presets import FILES, HEIGHT, NORMAL, QUALITIES, STEPS, preset_of, presets
from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config

QUICK = presets()["quickstart"]


def test_every_key_is_a_field_or_has_a_reason_not_to_be() -> None:
    groups = [("", Config), *((name, declared) for name, (_, declared) in GROUPS.items())]
    labels = {f"{group}.{name}" if group else name: spec for group, declared in groups for name, (_, spec, _) in keys_of(declared).items()}  # fmt: skip
    left_out = {
        label for label, spec in labels.items() if spec.unread or spec.transient or (spec.device and "." in label)
    }
    assert fields().keys() == labels.keys() - left_out - OWNED
    assert len(fields()) > 120 and labels.keys() >= OWNED


@pytest.mark.parametrize("name", presets())
def test_the_texts_of_a_preset_are_its_settings(name) -> None:
    preset = presets()[name]
    own = preset.config
    texts = {label: field.text(own) for label, field in fields().items()}
    request = Request(preset, own.guidance.text, own.guidance.negative, str(own.seed), texts)
    assert request.resolve() == own


def test_only_what_is_changed_differs_from_the_preset() -> None:
    config = Request(QUICK, "a red mug", "blur", "7", {"OptimizationParams.iterations": "12"}).resolve()
    assert (config.guidance.text, config.guidance.negative, config.seed) == ("a red mug", "blur", 7)
    assert config.optimization.iterations == 12 and config.cograd == QUICK.config.cograd
    assert config.guidance.vis_interval == 1 and with_previews(QUICK.config).guidance.vis_interval == QUICK.config.optimization.iterations // PREVIEWS


def test_every_problem_is_told_at_its_field() -> None:
    changed = {
        "OptimizationParams.iterations": "0",
        "GenerateCamParams.radius_range": "5 3",
        "GuidanceParams.sds": "perhaps",
    }
    with pytest.raises(ConfigError) as caught:
        Request(QUICK, " ", "", "x", changed).resolve()
    found = dict(faults(caught.value))
    assert found.keys() == {PROMPT, SEED, *changed}
    assert found[STEPS].startswith("Steps = '0': expected a whole number")
    assert found[PROMPT] == 'Type what to make, for example "a red mug".'
    assert found[SEED].startswith("Seed = 'x': expected") and not any("--" in sentence for sentence in found.values())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({HEIGHT: "60"}, "Size = 128 x 60: expected a square image"),
        ({"CoGradParams.t_base_range": "5 4"}, "CoGradParams.t_base_range = '5 4': expected two"),
    ],
)  # fmt: skip
def test_what_train_py_would_refuse_is_told_before_the_start(changed, sentence) -> None:
    with pytest.raises(ConfigError) as caught:
        Request(QUICK, "a red mug", changed=changed).resolve()
    assert any(sentence in told for _, told in faults(caught.value)), faults(caught.value)


@pytest.mark.parametrize("name", presets())
def test_qualities_differ_in_steps_alone_where_they_have_no_file(name) -> None:
    """And each can start; the normal one is the config itself."""
    assert preset_of(name, NORMAL).config == presets()[name].config
    labels = {label: field.text(presets()[name].config) for label, field in fields().items()}
    found = [preset_of(name, quality) for quality in QUALITIES if (name, quality) not in FILES]
    steps = [preset.config.optimization.iterations for preset in found]
    assert steps == sorted(set(steps)) and (len(found) == len(QUALITIES) or name == "quickstart")
    for preset in found:
        assert {label for label, text in labels.items() if fields()[label].text(preset.config) != text} <= {STEPS}
        assert Request(preset, "a red mug").resolve().optimization.iterations == preset.config.optimization.iterations


def test_a_quality_with_a_file_is_that_file() -> None:
    preset, expected = preset_of("quickstart", "fine"), load_config(["--opt", "configs/fine.yaml"])
    assert preset.config == expected and FILES == {("quickstart", "fine"): "fine"}
    assert Request(preset, expected.guidance.text).resolve() == with_previews(expected)


@pytest.mark.parametrize(
    "text", ["--overwrite", "--set seed=3 --resume x", "=", "a\nb", "GuidanceParams.text=b", "'\"<b>", "[1]"]
)
def test_what_is_typed_stays_a_text(text) -> None:
    config = Request(QUICK, text, text).resolve()
    assert (config.guidance.text, config.guidance.negative) == (text, text)
    assert not config.overwrite and config.resume is None and config.seed == 0


@pytest.mark.parametrize(
    "label", ["overwrite", "resume", "ModelParams.model_path", "gui", "no_such", "start_checkpoint"]
)
def test_what_the_page_decides_cannot_be_asked_for(label) -> None:
    with pytest.raises(ConfigError, match="expected a setting that the page offers"):
        Request(QUICK, "a red mug", changed={label: "1"}).resolve()


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"GuidanceParams.text has 2001 characters: expected at most 2000"):
        Request(QUICK, "a" * 2001).resolve()


def test_fields_are_found_by_words_of_name_and_help() -> None:
    found = [label for label, field in fields().items() if field.matches(["training", "iter"])]
    assert "OptimizationParams.iterations" in found and len(found) < 20
    assert fields()["GenerateCamParams.image_w"].takes == "a whole number >= 8 and <= 8192 (px)"


def test_presets_say_what_they_need(monkeypatch) -> None:
    assert list(presets())[:2] == ["quickstart", "quickstart_trained"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert QUICK.warning == "" and "any CPU" in QUICK.needs
    assert "ideal prior" in QUICK.needs and "trained prior" in presets()["quickstart_trained"].needs
    assert "robot" in QUICK.vocabulary["Objects"] and presets()["prompt"].vocabulary == {}
    full = presets()["prompt"]
    assert "no GPU" in full.warning and "stable-diffusion-2-1-base" in full.needs
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert full.warning == ""


def test_an_embedded_prior_tells_what_it_does_not_know() -> None:
    assert QUICK.hint("a red mug") == "" == presets()["prompt"].hint("a dragon")
    assert "names no object of the toy world" in QUICK.hint("a dragon")
    assert "ignores 'fluffy'" in QUICK.hint("a fluffy cat")
    assert all(preset.hint(prompt) == "" for preset in presets().values() for prompt in preset.examples.values())
