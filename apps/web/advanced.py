# SPDX-License-Identifier: Apache-2.0
"""Every setting that the page offers, by its key in a settings file, behind a search."""

from collections.abc import Callable, Iterable

from nicegui import ui

from apps.web.fields import Field, fields, title_of
from apps.web.presets import Preset

MOST_MATCHES = 24
"""Fields that a search shows."""


class Advanced:
    """All fields by group, a group drawn when it is first opened. Remembers the texts that differ from the preset's.

    edited: called when one of them has changed.
    """

    def __init__(self, preset: Preset, edited: Callable[[], None]) -> None:
        self.preset, self.edited = preset, edited
        self.changed: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self._controls: dict[str, ui.select | ui.input] = {}

    def draw(self) -> None:
        """The closed drawer with its search."""
        with ui.expansion("Advanced settings", icon="tune").classes("wide advanced") as self.drawer:
            self.search = ui.input(placeholder="Search all settings", on_change=self._list)
            self.search.props('dense outlined clearable debounce=200 aria-label="Search all settings"').classes("wide")
            self.reset = ui.button("Reset to the preset", icon="undo", on_click=self._back)
            self.reset.props("flat dense no-caps")
            self.body = ui.element("div").classes("wide")
        self._count()

    def show(self, preset: Preset, changed: dict[str, str]) -> None:
        """Another preset, and what differs from it."""
        self.preset = preset
        self.changed = {label: text for label, text in changed.items() if text != self._own(label)}
        self._list()
        self._count()

    def text(self, label: str) -> str:
        """What a field holds."""
        return self.changed.get(label, self._own(label))

    def change(self, texts: dict[str, str]) -> None:
        """Changes fields (label -> text), and shows them where they are drawn."""
        for label, text in texts.items():
            self._note(label, text)
            control = self._controls.get(label)
            if control is not None and control.value != text:
                control.set_value(text)
        self.edited()

    def show_problems(self, faults: dict[str, str]) -> None:
        """Shows each problem beside its field."""
        if faults or self.faults:
            self.faults = faults
            self._list()

    def _own(self, label: str) -> str:
        return fields()[label].text(self.preset.config)

    def _note(self, label: str, text: str) -> None:
        if text == self._own(label):
            self.changed.pop(label, None)
        else:
            self.changed[label] = text
        self._count()

    def _list(self) -> None:
        self.body.clear()
        self._controls = {}
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
        value = self.text(one.label)
        with ui.element("div").classes("field") as row:
            control: ui.select | ui.input
            if one.options:
                control = ui.select(one.options, label=one.name, value=value if value in one.options else None)
            else:
                control = ui.input(one.name, value=value)
            control.props("dense outlined options-dense hide-bottom-space").classes("wide").mark(one.label)
            control.error = self.faults.get(one.label)
            ui.label(f"{one.spec.help}: {one.takes}").classes("quiet")

        self._controls[one.label] = control

        def note() -> None:
            text = str(control.value if control.value is not None else "")
            if text != self.text(one.label):
                self._note(one.label, text)
                self.edited()
            row.classes(add="changed" if one.label in self.changed else "", remove="changed")

        control.on_value_change(note)
        row.classes(add="changed" if one.label in self.changed else "")

    def _back(self) -> None:
        self.faults = {}
        self.show(self.preset, {})
        self.edited()

    def _count(self) -> None:
        names = f"{len(self.changed)} changed: {', '.join(self.changed)}" if self.changed else "as in the preset"
        self.drawer.props["caption"] = names
        self.drawer.update()
        self.reset.set_visibility(bool(self.changed))
