"""Shows the progress of long steps on pytest's terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Progress:
    """Shows the current step on the terminal: in one line that changes, or in few lines."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = ""

    def __call__(self, text: str) -> None:
        """Show the current step."""
        terminal = self._terminal
        if terminal is None or text == self._shown:
            return
        if terminal.isatty:
            terminal.rewrite(text, erase=True)
        else:
            terminal.write_line(text)
        self._shown = text

    def line(self, text: str) -> None:
        """Write a line above the current step, which stays in view."""
        if self._terminal is not None:
            self.printed(text)

    def printed(self, text: str) -> None:
        """Write a line that a test printed with `-s`, also with `-q`."""
        terminal, shown = self._reporter, self._shown
        if terminal is None:
            return
        self.done()
        terminal.write_line(text)
        if shown and terminal.isatty:
            self(shown)

    def done(self) -> None:
        """Remove the current step from view."""
        if self._terminal is not None and self._terminal.isatty and self._shown:
            self._terminal.rewrite("", erase=True)
            self._terminal.rewrite("")
        self._shown = ""

    @property
    def _terminal(self) -> pytest.TerminalReporter | None:
        return None if self._config.option.verbose < 0 else self._reporter

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        plugins = self._config.pluginmanager
        reporter: pytest.TerminalReporter | None = plugins.get_plugin("terminalreporter")
        return reporter
