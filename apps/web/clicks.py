# SPDX-License-Identifier: Apache-2.0
"""Presses of the buttons that start, stop and delete."""

from collections.abc import Callable

from nicegui import ui

PRESS = "event => event.detail < 2 && emit(event.currentTarget.innerText)"
"""In the browser. The second click of a double-click may meet another button, or another label, than was pressed."""


def on_press(button: ui.button, do: Callable[[str], object]) -> ui.button:
    """Calls do(what the button says in the visitor's tab) when it is pressed, once for a double-click."""
    return button.on("click", lambda event: do(str(event.args)), js_handler=PRESS)
