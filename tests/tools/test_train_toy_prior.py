# SPDX-License-Identifier: Apache-2.0
"""The toy prior's training: data, captions, tokenizer, exact resumption, export that loads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from tools import train_toy_prior
from toy.captions import COLOURS, HELD_OUT_COLOUR_PAIRS
from toy.compose import compose
from toy.reading import parse_prompt
from toy.training import checks, data, export, model, sampling, tokenizer, training
from utils.device import resolve_device

RELEASED = Path(__file__).resolve().parents[2] / "assets" / "toy-prior"
TINY = model.Sizes(channels=(16, 16, 16), text_width=16, text_layers=1, heads=2, groups=8)
WITHOUT_STEPS = {
    "--minutes": ["nan", "0", "-1", "inf"],
    "--steps": ["0", "-3"],
    "--batch": ["0"],
    "--lr": ["0", "nan", "-1"],
}
SHORT = training.TrainSettings(steps=3, batch=3, warmup_steps=2, log_every=1, check_every=100, fit_images=20)


@pytest.fixture(scope="module")
def rendered() -> data.RenderedSet:
    return data.render_set(views=6, seed=0)


def trained(settings, rendered, folder, until: int) -> training.PriorTrainer:
    trainer = training.PriorTrainer(settings, TINY, rendered, folder)
    trainer.resume()
    while trainer.step < until:
        trainer.train_step()
    return trainer


def test_every_word_is_one_token_and_survives_saving(tmp_path):
    made = tokenizer.build_tokenizer()
    tokenizer.save_tokenizer(made, tmp_path)
    again = type(made).from_pretrained(tmp_path)
    text = "a DSLR photo of a red snowman with green hat, front view"
    assert made(text).input_ids == again(text).input_ids
    assert len(made(text).input_ids) == 13 + 2  # words, comma, start and end
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    assert all(f"{word}</w>" in vocab for word in tokenizer.words())
    assert (tmp_path / "merges.txt").read_text().startswith("#version")


def test_words_that_cannot_be_one_token_are_refused():
    with pytest.raises(ValueError, match=r"not one token each: bagel, 3d; use letters a-z"):
        tokenizer.check_one_token_a_word(tokenizer.build_tokenizer(), ["red", "bagel", "3d"])


def test_batches_are_composed_as_the_toy_world_composes(rendered):
    picks = data.draw_picks(rendered, 5, torch.Generator().manual_seed(1))
    images = data.compose_batch(rendered, picks)
    colours = list(COLOURS.values())
    for row in range(5):
        buffer = rendered.buffers[int(picks.class_index[row]), int(picks.view_index[row])]
        a, b = colours[int(picks.colour_a[row])], colours[int(picks.colour_b[row])]
        expected = compose(buffer, a, b, picks.background[row].tolist())
        expected = expected[..., ::-1].copy() if picks.flip[row] else expected
        assert np.abs(images[row].numpy() - expected).max() < 1e-6


def test_held_out_colour_pairs_are_never_drawn(rendered):
    picks = data.draw_picks(rendered, 4000, torch.Generator().manual_seed(0))
    drawn = {(data.COLOUR_NAMES[int(a)], data.COLOUR_NAMES[int(b)]) for a, b in zip(picks.colour_a, picks.colour_b)}
    assert not drawn & set(HELD_OUT_COLOUR_PAIRS)
    assert len(drawn) == len(COLOURS) * (len(COLOURS) - 1) - len(HELD_OUT_COLOUR_PAIRS)


def test_objects_with_a_front_are_drawn_twice_as_often(rendered):
    drawn = data.draw_picks(rendered, 6000, torch.Generator().manual_seed(0)).class_index
    counts = torch.bincount(drawn, minlength=len(data.CLASSES)).float()
    fronted = torch.tensor([name in data.ONE_SIDED for name in data.CLASSES])
    assert (counts[fronted].mean() / counts[~fronted].mean()).item() == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("azimuth_deg", "blend"),
    [(0, ("front", "side", 0)), (-45, ("front", "side", 0.5)), (135, ("side", "back", 0.5)), (540, ("side", "back", 1))],
)
def test_views_are_blended_as_guidance_blends_them(azimuth_deg, blend):
    assert data.view_blend(azimuth_deg) == blend


def test_captions_say_what_is_shown_or_are_dropped(rendered):
    generator = torch.Generator().manual_seed(2)
    picks = data.draw_picks(rendered, 400, generator)
    near, far, share = data.draw_captions(rendered, picks, generator)
    kept = [row for row, text in enumerate(near) if any(f"{word} " in text for word in COLOURS)]
    assert 0.83 < len(kept) / 400 < 0.93  # 12 % dropped
    assert sum(text == "" for text in near) > 15
    for row in kept:
        spec = parse_prompt(near[row])
        assert spec.colour_a == data.COLOUR_NAMES[int(picks.colour_a[row])]
        assert spec.class_name == list(data.CLASSES)[int(picks.class_index[row])]
        assert share[row] == 0 or near[row] != far[row]


def test_a_resumed_run_equals_the_unbroken_one_bitwise(rendered, tmp_path):
    unbroken = trained(SHORT, rendered, tmp_path / "a", until=3)
    trained(SHORT, rendered, tmp_path / "b", until=1).save()
    resumed = trained(SHORT, rendered, tmp_path / "b", until=3)
    for part in ("networks", "average"):
        pairs = zip(getattr(unbroken, part).state_dict().items(), getattr(resumed, part).state_dict().values())
        assert all(torch.equal(mine, other) for (_, mine), other in pairs), part


def test_the_seed_matters_and_the_average_lags(rendered, tmp_path):
    first = trained(SHORT, rendered, tmp_path / "a", until=2)
    other = trained(replace(SHORT, seed=1), rendered, tmp_path / "b", until=2)
    name = "unet.conv_in.weight"
    assert not torch.equal(first.networks.state_dict()[name], other.networks.state_dict()[name])
    assert not torch.equal(first.networks.state_dict()[name], first.average.state_dict()[name])


def test_resuming_another_network_is_refused(rendered, tmp_path):
    trained(SHORT, rendered, tmp_path, until=1).save()
    with pytest.raises(ValueError, match=r"channels \(16, 16, 16\), but \(32, 32, 32\).*use the same --channels"):
        training.PriorTrainer(SHORT, replace(TINY, channels=(32, 32, 32)), rendered, tmp_path).resume()


def test_learning_rate_warms_up_and_falls_to_its_end(rendered, tmp_path):
    trainer = training.PriorTrainer(replace(SHORT, steps=100, warmup_steps=10), TINY, rendered, tmp_path)
    rates = []
    for trainer.step in (0, 10, 50, 100):
        rates.append(trainer.learning_rate() / SHORT.lr)
    assert rates == pytest.approx([0.1, 0.976, 0.51, 0.02], abs=0.002)


def test_smaller_latents_hide_the_colour(rendered):
    autoencoder = training.fit_autoencoder(rendered, SHORT)
    alphas = model.build_scheduler().alphas_cumprod
    shares = {}
    for scale in (0.2, 2.0):
        autoencoder.register_to_config(scaling_factor=scale)
        shares[scale] = checks.identification_curve(rendered, autoencoder, alphas, (1, 800), images=6)
    assert shares[0.2][1] == shares[2.0][1] == 1
    assert shares[0.2][800] < 0.5 < shares[2.0][800]


def test_wrong_wordings_are_wrong_in_one_thing(rendered):
    autoencoder = training.fit_autoencoder(rendered, SHORT)
    captions = checks.build_check_set(rendered, autoencoder, images=12).captions
    for row, right in enumerate(captions["right"]):
        told, colour, name = (parse_prompt(captions[kind][row]) for kind in ("right", "wrong_colour", "wrong_class"))
        assert colour.colour_a not in (told.colour_a, told.colour_b) and colour.class_name == told.class_name
        assert name.class_name != told.class_name and name.colour_a == told.colour_a
        assert captions["wrong_view"][row].split(",")[0] == right.split(",")[0] != captions["wrong_view"][row]


def test_true_pictures_score_full_marks_and_grey_ones_do_not(rendered):
    targets, images = [], []
    for row, class_name in enumerate(data.CLASSES):
        a, b = HELD_OUT_COLOUR_PAIRS[row % len(HELD_OUT_COLOUR_PAIRS)]
        view = row % rendered.views
        turn_deg = abs(float(rendered.azimuth_deg[row, view]))
        word = min(sampling.AZIMUTH_DEG, key=lambda word: abs(sampling.AZIMUTH_DEG[word] - turn_deg))
        targets.append(sampling.Target(class_name, a, b, word))
        images.append(compose(rendered.buffers[row, view], COLOURS[a], COLOURS[b], sampling.WHITE))
    images = torch.from_numpy(np.stack(images))
    assert set(sampling.retrieval_scores(rendered, targets, images).values()) == {1.0}
    assert sampling.retrieval_scores(rendered, targets, torch.full_like(images, 0.5))["class"] < 0.2


@pytest.fixture(scope="module")
def exported(rendered, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    trainer = training.PriorTrainer(replace(SHORT, steps=2), TINY, rendered, run)
    trainer.run()
    folder = tmp_path_factory.mktemp("assets") / "prior"
    export.export_prior(run, folder, rendered, images=6, steps=2, remarks="Stopped early.")
    return folder


def test_log_tells_progress_and_text_checks(exported):
    lines = [json.loads(line) for line in (exported / "training_log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "train", "train", "text"]
    assert lines[0]["identification"] and lines[1]["loss"] > 0
    assert set(lines[-1]["bands"]["850-980"]) == set(checks.WORDINGS)


def test_export_loads_part_by_part_and_is_the_average(exported):
    from diffusers import DDIMScheduler
    from transformers import AutoTokenizer, CLIPTextModel

    from guidance.linear_autoencoder import LinearAutoencoder

    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    unet = UNet2DConditionModel.from_pretrained(exported / "unet", torch_dtype=torch.float32)
    vae = LinearAutoencoder.from_pretrained(exported / "vae")
    text_encoder = CLIPTextModel.from_pretrained(exported / "text_encoder", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(exported / "tokenizer")(
        ["a red cube"], padding="max_length", max_length=text_encoder.config.max_position_embeddings, return_tensors="pt"
    ).input_ids
    embeddings = text_encoder(ids)[0]
    assert embeddings.shape == (1, tokenizer.LENGTH, 16)
    assert unet(torch.zeros(1, 12, 16, 16), 500, embeddings).sample.shape == (1, 12, 16, 16)
    assert vae.config.scaling_factor == SHORT.scaling_factor
    assert DDIMScheduler.from_pretrained(exported / "scheduler").config.prediction_type == "sample"


def test_card_names_what_was_measured(exported):
    card = (exported / "README.md").read_text()
    assert "2 steps of 3 images (6 in all)" in card and "Stopped early." in card
    for word in (*COLOURS, *data.CLASSES, "apache-2.0", "samples.png"):
        assert word in card
    assert (exported / "samples.png").stat().st_size > 10_000


def test_training_continues_from_an_exported_prior(exported, rendered, tmp_path):
    trainer = training.PriorTrainer(replace(SHORT, steps=6), TINY, rendered, tmp_path)
    trainer.start_from(exported)
    assert trainer.step == 2 and trainer.progress() == 0
    assert trainer.learning_rate() == pytest.approx(SHORT.lr / 2)  # the first of two steps of warm-up
    stored = UNet2DConditionModel.from_pretrained(exported / "unet", torch_dtype=torch.float32).state_dict()
    for networks in (trainer.networks, trainer.average):
        assert all(torch.equal(value, stored[name]) for name, value in networks.unet.state_dict().items())
    trainer.train_step()
    trainer.save()
    resumed = training.PriorTrainer(replace(SHORT, steps=6), TINY, rendered, tmp_path)
    assert resumed.resume() and resumed.step == 3 and resumed.progress() == trainer.progress() == 0.25
    resumed.run()
    assert resumed.step == 6
    export.export_prior(tmp_path, tmp_path / "to", rendered, images=6, steps=2)
    assert "6 steps of 3 images (18 in all)" in (tmp_path / "to" / "README.md").read_text()
    log = (tmp_path / "to" / "training_log.jsonl").read_text()
    assert log.startswith((exported / "training_log.jsonl").read_text()) and len(log.splitlines()) == 4 + 4


@pytest.mark.parametrize(
    ("spoil", "settings", "sizes", "said"),
    [
        (lambda folder: (folder / "measured.json").unlink(), SHORT, TINY, "has no measured.json; give a folder that"),
        (lambda folder: None, replace(SHORT, steps=2), TINY, "2 steps and 0 minutes; --steps and --minutes count from"),
        (lambda folder: None, SHORT, replace(TINY, channels=(32,) * 3), r"\(16, 16, 16\), but \(32, 32, 32\)"),
        (lambda folder: (folder / "tokenizer" / "vocab.json").write_text("{}"), SHORT, TINY, "trained with other words"),
    ],
    ids=["no prior", "trained already", "other sizes", "other words"],
)
def test_a_prior_that_cannot_be_continued_is_refused(exported, rendered, tmp_path, spoil, settings, sizes, said):
    folder = shutil.copytree(exported, tmp_path / "prior")
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        training.PriorTrainer(settings, sizes, rendered, tmp_path / "run").start_from(folder)


def test_the_released_prior_can_be_continued(rendered, tmp_path):
    training.PriorTrainer(replace(SHORT, steps=10**6), model.Sizes(), rendered, tmp_path).start_from(RELEASED)


def test_exporting_nothing_is_refused(rendered, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint.pt does not exist; run the train command"):
        export.export_prior(tmp_path, tmp_path / "to", rendered)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *((["train", name, value], f"{name[2:]} = ") for name, values in WITHOUT_STEPS.items() for value in values),
        (["train", "--views", "0"], "--views 0"),
        (["train", "--threads", "0"], "--threads 0"),
        (["train", "--channels", "16"], "channels = 16: expected three multiples of 16"),
        (["train", "--channels", "48", "80", "100"], "three multiples"),
        (["train", "--device", "cuda:9"], "cuda:9"),
        (["train", "--from", "nowhere"], "nowhere has no measured.json"),
        (["train", "--data-cache", "/proc/x.npz"], "/proc/x.npz"),
        (["export", "--to", "there"], "holds no checkpoint.pt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_train_is_refused_before_views_are_rendered(tmp_path, monkeypatch, capsys, words, said) -> None:
    """A schedule of no steps, NaN minutes too, would write networks as they were drawn and succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_toy_prior, "load_or_render", lambda *_, **__: pytest.fail("views are rendered"))
    assert train_toy_prior.main([words[0], "--folder", str(tmp_path / "run"), *words[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), [], "cannot be read ("),
        (lambda path: path.write_bytes(b""), [], "cannot be read ("),
        (lambda path: torch.save({"step": 1}, path), [], "it has no seconds, begun_step"),
        (lambda path: torch.save(torch.ones(2), path), [], "it has no step, seconds"),
        (lambda path: None, ["--channels", "32", "32", "32"], "channels (16, 16, 16), but (32, 32, 32) were asked for"),
    ],
    ids=["cut", "empty", "parts missing", "no parts", "other channels"],
)
@pytest.mark.parametrize("command", ["train", "export"])
def test_a_checkpoint_that_cannot_be_continued_is_refused_before_views_are_rendered(
    rendered, tmp_path, monkeypatch, capsys, command, spoil, words, said
) -> None:
    if words and command == "export":
        return
    trained(SHORT, rendered, tmp_path / "run", until=1).save()
    spoil(tmp_path / "run" / "checkpoint.pt")
    monkeypatch.setattr(train_toy_prior, "load_or_render", lambda *_, **__: pytest.fail("views are rendered"))
    words = [*words, *(["--to", str(tmp_path / "to")] if command == "export" else [])]
    assert train_toy_prior.main([command, "--folder", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "checkpoint.pt" in line and not (tmp_path / "to").exists()


def test_the_default_device_is_one_that_networks_can_be_on(tmp_path, rendered, monkeypatch) -> None:
    """--device auto ended with a stack trace after the views were rendered."""
    made = []
    monkeypatch.setattr(train_toy_prior, "load_or_render", lambda *_, **__: rendered)
    monkeypatch.setattr(train_toy_prior.PriorTrainer, "run", lambda trainer: made.append(trainer))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert train_toy_prior.main(["train", "--folder", str(tmp_path), "--minutes", "1", "--device", "auto"]) == 0
    assert made[0].device == resolve_device("auto")


def test_rendered_views_are_kept_whole_and_used_while_they_fit(tmp_path, rendered, monkeypatch, capsys) -> None:
    """Under the name that was given, without a suffix too."""
    calls = []
    monkeypatch.setattr(data, "render_set", lambda *_, **__: calls.append(1) or rendered)
    cache = tmp_path / "folder" / "cache"
    for _ in range(2):
        found = data.load_or_render(cache, rendered.views, 0)
        assert (found.buffers == rendered.buffers).all() and (found.azimuth_deg == rendered.azimuth_deg).all()
    assert len(calls) == 1 and list(cache.parent.iterdir()) == [cache] and not capsys.readouterr().out
    data.load_or_render(cache, rendered.views, 1)
    monkeypatch.setattr(data, "sources_digest", lambda: "edited")
    data.load_or_render(cache, rendered.views, 1)
    assert len(calls) == 3 and capsys.readouterr().out.count("other sources of the toy world; rendering again") == 2


@pytest.mark.parametrize("kind", ["cut", "empty", "foreign", "an array", "no archive"])
def test_a_file_that_is_no_set_of_views_is_refused_and_kept(tmp_path, rendered, monkeypatch, kind) -> None:
    monkeypatch.setattr(data, "render_set", lambda *_, **__: rendered)
    cache = tmp_path / "cache.npz"
    data.load_or_render(cache, rendered.views, 0)
    if kind == "foreign":
        np.savez(cache, weights=np.zeros(3))
    elif kind == "an array":
        with cache.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        cache.write_bytes({"cut": cache.read_bytes()[:-200], "empty": b"", "no archive": b"some text"}[kind])
    before = cache.read_bytes()
    with pytest.raises(ValueError, match=r"--data-cache .*cache\.npz (cannot be read \(|is not a set of views).*; expected a file"):
        data.load_or_render(cache, rendered.views, 0)
    assert cache.read_bytes() == before
