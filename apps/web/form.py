# SPDX-License-Identifier: Apache-2.0
"""The form: prompt, preset, seed, and every setting of the typed config. Inputs belong to the tab."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from nicegui import ui

from apps.web.fields import MAX_CHARACTERS, NEGATIVE, PROMPT, SEED, Field, Request, faults, fields, title_of
from apps.web.presets import Preset, presets
from apps.web.server_state import CannotStart, ServerState
from arguments.load import ConfigError
from toy.captions import known_words
from toy.reading import Reading

UNKNOWN_WORDS = "GuidanceParams.allow_unknown_words"
MOST_MATCHES = 24
"""Fields that a search shows."""


class Form:
    """The inputs of one tab."""

    def __init__(self, server: ServerState, started: Callable[[], None]) -> None:
        self.server, self.started = server, started
        self.preset: Preset = next(iter(presets().values()))
        self.advanced = Advanced(self.preset)
        self._draw()

    def _draw(self) -> None:
        with ui.element("section").classes("card").props('aria-label="What to make"'):
            self.prompt = _area("Prompt").on_value_change(self._hint)
            self.examples = ui.element("div").classes("chips")
            self.hint = ui.label().classes("warn")
            self.negative = _area("Negative prompt")
            titles = {name: preset.title for name, preset in presets().items()}
            self.choice = ui.select(titles, label="Preset", value=self.preset.name, on_change=self._choose)
            self.choice.props("outlined dense options-dense").classes("wide")
            self.needs = ui.label().classes("quiet")
            self.unfit = ui.label().classes("warn")
            with ui.element("div").classes("row").style("flex-wrap: nowrap"):
                self.seed = (
                    ui.input("Seed", value="0")
                    .props("outlined dense hide-bottom-space inputmode=numeric")
                    .classes("wide")
                )
                dice = ui.button(icon="casino", on_click=lambda: self.seed.set_value(str(random.randrange(2**32))))
                dice.props('flat aria-label="Another seed"')
            self.advanced.draw()
            with ui.element("div").classes("starter"):
                self.problems = ui.element("div").classes("wide").props("role=alert")
                ui.button("Start", icon="play_arrow", on_click=self._start).classes("wide").props("no-caps size=md")
        self._show_preset(Preset("", "", self.preset.config))

    def _choose(self) -> None:
        before, self.preset = self.preset, presets()[str(self.choice.value)]
        self._show_preset(before)

    def _show_preset(self, before: Preset) -> None:
        """The preset's texts replace those of the one before, and nothing that was typed."""
        own, earlier = self.preset.config, before.config
        for element, mine, theirs in (
            (self.prompt, own.guidance.text, earlier.guidance.text),
            (self.negative, own.guidance.negative, earlier.guidance.negative),
            (self.seed, str(own.seed), str(earlier.seed)),
        ):
            if (element.value or "") in ("", theirs):
                element.set_value(mine)
        self.needs.set_text(self.preset.needs)
        _show(self.unfit, self.preset.warning)
        self.examples.clear()
        with self.examples:
            for word, prompt in self.preset.examples.items():
                chip = ui.button(word, on_click=lambda prompt=prompt: self.prompt.set_value(prompt), color=None)
                chip.props("flat no-caps dense").classes("chip").tooltip(prompt)
        self.advanced.show(self.preset)
        self._hint()

    def _hint(self) -> None:
        _show(self.hint, self.preset.hint((self.prompt.value or "")[:MAX_CHARACTERS]))

    def request(self) -> Request:
        """The run that the form describes."""
        words = (self.prompt.value or "", self.negative.value or "", self.seed.value or "")
        return Request(self.preset, *words, dict(self.advanced.changed))

    def _start(self) -> None:
        """Submits the run; asks first about a prompt with words that an embedded prior does not know."""
        request = self.request()
        reading = self.preset.reading(request.prompt[:MAX_CHARACTERS])
        if reading is not None and reading.problem and UNKNOWN_WORDS not in request.changed:
            self._ask(request, reading)
        else:
            self._submit(request)

    def _ask(self, request: Request, reading: Reading) -> None:
        """Offers the nearest known words, and the run as it is, which shows a mixture of all objects."""

        def choose(do: Callable[[], None]) -> None:
            dialog.close()
            do()

        def correct() -> None:
            self.prompt.set_value(corrected)
            self._start()

        corrected = reading.corrected
        with ui.dialog() as dialog, ui.card().props('aria-label="Unknown words"'):
            ui.label(f"The prompt {reading.problem}.")
            ui.label(known_words()).classes("quiet")
            with ui.element("div").classes("row"):
                if corrected:
                    ui.button(f'Start with "{corrected}"', on_click=lambda: choose(correct)).props("no-caps")
                anyway = replace(request, changed={**request.changed, UNKNOWN_WORDS: "true"})
                ui.button("Start anyway", on_click=lambda: choose(lambda: self._submit(anyway))).props(
                    "no-caps outline"
                )
                ui.button("Change the prompt", on_click=dialog.close).props("no-caps flat")
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _submit(self, request: Request) -> None:
        try:
            self.server.submit(request.resolve())
        except ConfigError as error:
            self._show_problems(faults(error))
        except (CannotStart, OSError) as error:
            self._show_problems([("", str(error))])
        else:
            self._show_problems([])
            self.started()

    def _show_problems(self, found: list[tuple[str, str]]) -> None:
        by_label = dict(found)
        for label, element in ((PROMPT, self.prompt), (NEGATIVE, self.negative), (SEED, self.seed)):
            element.error = by_label.get(label)
        self.advanced.show_problems(by_label)
        self.problems.clear()
        with self.problems:
            for label, sentence in found:
                if label not in (PROMPT, NEGATIVE, SEED):
                    ui.label(sentence).classes("bad")


class Advanced:
    """All fields by group, a group drawn when it is first opened. Remembers the texts that differ from the preset's."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.changed: dict[str, str] = {}
        self.faults: dict[str, str] = {}

    def draw(self) -> None:
        """The closed drawer with its search."""
        with ui.expansion("Advanced settings", icon="tune").classes("wide advanced") as self.drawer:
            self.search = ui.input(placeholder="Search all settings", on_change=self._list)
            self.search.props('dense outlined clearable debounce=200 aria-label="Search all settings"').classes("wide")
            self.reset = ui.button("Reset to the preset", icon="undo", on_click=self._back)
            self.reset.props("flat dense no-caps")
            self.body = ui.element("div").classes("wide")
        self._count()

    def show(self, preset: Preset) -> None:
        """Another preset: what was changed stays changed."""
        self.preset = preset
        self._list()

    def show_problems(self, faults: dict[str, str]) -> None:
        """Shows each problem beside its field."""
        if faults or self.faults:
            self.faults = faults
            self._list()

    def _list(self) -> None:
        self.body.clear()
        words = (self.search.value or "").split()
        with self.body:
            if words:
                found = [one for one in fields().values() if one.matches(words)]
                self._rows(found[:MOST_MATCHES])
                if len(found) != len(found[:MOST_MATCHES]) or not found:
                    ui.label(f"{len(found)} settings match: type more." if found else "No setting matches.")
                return
            for group in dict.fromkeys(one.group for one in fields().values()):
                self._group(group, [one for one in fields().values() if one.group == group])

    def _group(self, group: str, members: list[Field]) -> None:
        at_once = any(one.label in self.faults for one in members)
        with ui.expansion(group or "Run", caption=title_of(group), value=at_once).classes("wide") as expansion:
            inside = ui.element("div").classes("wide")

        def fill() -> None:
            if expansion.value and not inside.default_slot.children:
                with inside:
                    self._rows(members)

        expansion.on_value_change(fill)
        fill()

    def _rows(self, listed: Iterable[Field]) -> None:
        for one in listed:
            self._row(one)

    def _row(self, one: Field) -> None:
        value = self.changed.get(one.label, one.text(self.preset.config))
        with ui.element("div").classes("field") as row:
            control: ui.select | ui.input
            if one.options:
                control = ui.select(one.options, label=one.name, value=value if value in one.options else None)
            else:
                control = ui.input(one.name, value=value)
            control.props("dense outlined options-dense hide-bottom-space").classes("wide").mark(one.label)
            control.error = self.faults.get(one.label)
            ui.label(f"{one.spec.help}: {one.takes}").classes("quiet")

        def note() -> None:
            text = str(control.value if control.value is not None else "")
            if text == one.text(self.preset.config):
                self.changed.pop(one.label, None)
            else:
                self.changed[one.label] = text
            row.classes(toggle=None, add="changed" if one.label in self.changed else "", remove="changed")
            self._count()

        control.on_value_change(note)
        row.classes(add="changed" if one.label in self.changed else "")

    def _back(self) -> None:
        self.changed, self.faults = {}, {}
        self._list()
        self._count()

    def _count(self) -> None:
        names = f"{len(self.changed)} changed: {', '.join(self.changed)}" if self.changed else "as in the preset"
        self.drawer.props["caption"] = names
        self.drawer.update()
        self.reset.set_visibility(bool(self.changed))


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
