# SPDX-License-Identifier: Apache-2.0
"""The form: prompt, quality, steps, size, seed, preset, and every other setting. The visitor's browser keeps it."""

import json
from collections.abc import Callable
from dataclasses import replace

from nicegui import ui

from apps.web.advanced import Advanced
from apps.web.clicks import on_press
from apps.web.drafts import UNKNOWN_WORDS, to_text, with_another_seed
from apps.web.fields import MAX_CHARACTERS, NEGATIVE, PLAIN, PROMPT, SEED, Request
from apps.web.messages import faults, in_page_words
from apps.web.presets import HEIGHT, QUALITIES, STEPS, WIDTH, preset_of, presets
from apps.web.server_state import CannotStart, ServerState
from arguments.load import ConfigError
from toy.captions import known_words
from toy.prompt_words import read_words_of
from toy.reading import Reading

OTHER_TEXTS = "Other texts need a preset with Stable Diffusion."
KEPT_AS = "cograd3d-form"
"""Name in the browser's localStorage."""


class Form:
    """The inputs of one tab; what they hold is kept for the next tab, and for this one after a reload."""

    def __init__(self, server: ServerState, started: Callable[[], None], draft: Request) -> None:
        self.server, self.started = server, started
        self.preset = draft.preset
        self.advanced = Advanced(self.preset, self._settings_edited)
        self._is_filling = True
        self._draw()
        self.fill(draft)

    def fill(self, draft: Request) -> None:
        """Shows another draft in place of what was typed."""
        self._is_filling = True
        self.preset = draft.preset
        self.quality.set_value(draft.preset.quality)
        self.choice.set_value(draft.preset.name)
        texts = (draft.prompt, draft.negative, draft.seed)
        for element, text in zip((self.prompt, self.negative, self.seed), texts):
            element.set_value(text)
        self._show_preset(dict(draft.changed))
        self._show_problems([])
        self._is_filling = False
        self._keep()

    def draft(self) -> Request:
        """The run that the form describes."""
        words = (self.prompt.value or "", self.negative.value or "", self.seed.value or "")
        return Request(self.preset, *words, dict(self.advanced.changed))

    def _draw(self) -> None:
        with ui.element("section").classes("card").props('aria-label="What to make"'):
            self.prompt = _area("Prompt").on_value_change(self._hint)
            self.examples = ui.element("div").classes("chips")
            self.hint = ui.label().classes("warn")
            self.vocabulary = ui.element("div").classes("words")
            qualities = {name: quality.title for name, quality in QUALITIES.items()}
            self.quality = ui.toggle(qualities, value=self.preset.quality, on_change=self._choose)
            self.quality.props('no-caps spread unelevated toggle-color=primary aria-label="Quality"').classes("wide")
            self._draw_numbers()
            titles = {name: preset.title for name, preset in presets().items()}
            self.choice = ui.select(titles, label="Preset", value=self.preset.name, on_change=self._choose)
            self.choice.props("outlined dense options-dense").classes("wide")
            self.needs = ui.label().classes("quiet")
            self.unfit = ui.label().classes("warn")
            self.negative = _area("Negative prompt").on_value_change(self._keep)
            self.advanced.draw()
            with ui.element("div").classes("starter"):
                self.problems = ui.element("div").classes("wide").props("role=alert")
                start = on_press(ui.button("Start", icon="play_arrow"), lambda _: self._start())
                start.classes("wide").props("no-caps size=md")

    def _draw_numbers(self) -> None:
        with ui.element("div").classes("numbers"):
            self.steps, self.size, self.seed = (ui.input(name) for name in ("Steps", "Size, px", "Seed"))
            for element in (self.steps, self.size, self.seed):
                element.props("outlined dense hide-bottom-space no-error-icon inputmode=numeric")
            dice = ui.button(icon="casino", on_click=lambda: self.fill(with_another_seed(self.draft())))
            dice.props('flat aria-label="Another seed"')
        self.steps.on_value_change(self._edit_steps)
        self.size.on_value_change(self._edit_size)
        self.seed.on_value_change(self._keep)

    def _choose(self) -> None:
        """Another preset or quality: its texts replace those of the one before, and nothing that was typed."""
        if self._is_filling:
            return
        before, self.preset = self.preset, preset_of(str(self.choice.value), str(self.quality.value))
        own, earlier = self.preset.config, before.config
        for element, mine, theirs in (
            (self.prompt, own.guidance.text, earlier.guidance.text),
            (self.negative, own.guidance.negative, earlier.guidance.negative),
            (self.seed, str(own.seed), str(earlier.seed)),
        ):
            if (element.value or "") in ("", theirs):
                element.set_value(mine)
        changed = dict(self.advanced.changed)
        if before.quality != self.preset.quality:  # which is what these say
            changed = {label: text for label, text in changed.items() if label not in (STEPS, WIDTH, HEIGHT)}
        self._show_preset(changed)
        self._keep()

    def _show_preset(self, changed: dict[str, str]) -> None:
        self.needs.set_text(self.preset.needs)
        _show(self.unfit, self.preset.warning)
        self.examples.clear()
        with self.examples:
            for word, prompt in self.preset.examples.items():
                chip = ui.button(word, on_click=lambda prompt=prompt: self.prompt.set_value(prompt), color=None)
                chip.props("flat no-caps dense").classes("chip").tooltip(prompt)
        self.vocabulary.clear()
        with self.vocabulary:
            for kind, words in self.preset.vocabulary.items():
                with ui.element("div").classes("quiet"):
                    ui.label(kind).classes("kind")
                    ui.label(words)
        self.advanced.show(self.preset, changed)
        self._settings_edited()
        self._hint()

    def _edit_steps(self) -> None:
        self._edit({STEPS: self.steps.value or ""})

    def _edit_size(self) -> None:
        """One number for both sides."""
        if (self.size.value or "") != self._size():
            self._edit(dict.fromkeys((WIDTH, HEIGHT), self.size.value or ""))

    def _edit(self, texts: dict[str, str]) -> None:
        if not self._is_filling:
            self.advanced.change(texts)

    def _size(self) -> str:
        width, height = self.advanced.text(WIDTH), self.advanced.text(HEIGHT)
        return width if width == height else f"{width} x {height}"

    def _settings_edited(self) -> None:
        """Shows the steps and the size as the settings have them."""
        for element, text in ((self.steps, self.advanced.text(STEPS)), (self.size, self._size())):
            if (element.value or "") != text:
                element.set_value(text)
        self._keep()

    def _hint(self) -> None:
        _show(self.hint, self.preset.hint((self.prompt.value or "")[:MAX_CHARACTERS]))
        self._keep()

    def _keep(self) -> None:
        """Has the browser keep what the form holds."""
        if not self._is_filling:
            ui.run_javascript(f"localStorage.setItem('{KEPT_AS}', {json.dumps(to_text(self.draft()))})")

    def _start(self) -> None:
        """Submits the run; asks first about a prompt with words that an embedded prior does not know."""
        self._submit(self.draft())

    def _ask(self, request: Request, reading: Reading) -> None:
        """Offers the nearest known words, and the run as it is, with what comes of that."""

        def choose(do: Callable[[], None]) -> None:
            dialog.close()
            do()

        def correct() -> None:
            self.prompt.set_value(corrected)
            self._start()

        corrected = reading.corrected
        anyway = replace(request, changed={**request.changed, UNKNOWN_WORDS: "true"})
        is_mixture = anyway.resolve().guidance.guidance == "ideal" and reading.spec is None
        effect = ": a mixture of all objects" if is_mixture else ""
        with ui.dialog() as dialog, ui.card().props('aria-label="Unknown words"'):
            ui.label(f"The prompt {reading.problem}.")
            ui.label(f"{known_words()} {OTHER_TEXTS}").classes("quiet")
            with ui.element("div").classes("row"):
                if corrected:
                    on_press(ui.button(f'Start with "{corrected}"'), lambda _: choose(correct)).props("no-caps")
                start = on_press(ui.button(f"Start anyway{effect}"), lambda _: choose(lambda: self._submit(anyway)))
                start.props("no-caps outline")
                ui.button("Change the prompt", on_click=dialog.close).props("no-caps flat")
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _submit(self, request: Request) -> None:
        try:
            config = request.resolve()
            reading = read_words_of(config.guidance)
            if reading is not None and reading.problem and not config.guidance.allow_unknown_words:
                self._show_problems([])
                self._ask(request, reading)
                return
            self.server.submit(config)
        except ConfigError as error:
            self._show_problems(faults(error))
        except (CannotStart, OSError) as error:
            self._show_problems([("", in_page_words(str(error)))])
        else:
            self._show_problems([])
            self.started()

    def _show_problems(self, found: list[tuple[str, str]]) -> None:
        """Those of the texts beside them; others above the button, for the numbers' inputs are narrow."""
        by_name = {PLAIN[label]: sentence for label, sentence in found if label in PLAIN}
        for element, label in (
            (self.prompt, PROMPT), (self.negative, NEGATIVE), (self.steps, STEPS), (self.size, WIDTH), (self.seed, SEED)
        ):  # fmt: skip
            element.error = by_name.get(PLAIN[label])
        self.advanced.show_problems(dict(found))
        self.problems.clear()
        with self.problems:
            for sentence in dict.fromkeys(sentence for label, sentence in found if label not in (PROMPT, NEGATIVE)):
                ui.label(sentence).classes("bad")


def _area(label: str) -> ui.textarea:
    """A text area that grows with what is typed."""
    return (
        ui.textarea(label)
        .props(f"autogrow outlined dense hide-bottom-space maxlength={MAX_CHARACTERS} rows=1")
        .classes("wide")
    )


def _show(element: ui.label, text: str) -> None:
    """A text that is hidden when it is empty."""
    element.set_text(text)
    element.set_visibility(bool(text))
