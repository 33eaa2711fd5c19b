"""A headless browser, which shows how a page looks and behaves on a screen of any size.

`Chromium` speaks the DevTools protocol over two pipes, and so needs no driver and no library.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The program's names on different systems.
NAMES = ("chromium", "chromium-browser", "google-chrome")

_SECONDS = 30.0

# Twice: with `content-visibility: auto`, rows that come into view may turn out larger than their
# estimated size, and move the element.
_MIDDLE = """
    async (element) => {
        for (let time = 0; time < 2; time++) {
            element.scrollIntoView({block: "center"});
            for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
        }
        const box = element.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }
"""


class Chromium:
    """A browser with one page; use it in a `with` statement."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._undo = ExitStack()
        self._numbers = itertools.count(1)
        self._session = ""
        self._unread = b""
        self._loads = 0
        #: The URLs that the page requested, and its errors and log entries.
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("no browser: apt-get install chromium")
        with ExitStack() as undo:
            theirs_in, self._to = os.pipe()
            self._from, theirs_out = os.pipe()
            undo.callback(os.close, self._to)
            undo.callback(os.close, self._from)
            undo.enter_context(_started(program, self._profile, theirs_in, theirs_out))
            self._undo = undo.pop_all()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        with self._undo:
            # The browser writes to its profile until it ends.
            self.call("Browser.close")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol, and return its result.

        The methods are described at https://chromedevtools.github.io/devtools-protocol.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._take(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, file: Path) -> None:
        """Show a file, and return when the page and its resources are loaded."""
        self.requests.clear()
        self.complaints.clear()
        self._until_loaded("Page.navigate", url=file.as_uri())

    def reload(self) -> None:
        """Load the same page again."""
        self._until_loaded("Page.reload")

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, and return its value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """Emulate a screen of this size, with a light or dark colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """Click at the middle of an element; another that covers it there gets the click."""
        x, y = self.run(f"({_MIDDLE})(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key by its name, such as Escape."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def picture(self, file: Path) -> None:
        """Write a screenshot to a file, as PNG."""
        picture = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    def _until_loaded(self, method: str, **parameters: object) -> None:
        before = self._loads
        self.call(method, **parameters)
        while self._loads == before:
            self._take(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            readable, _, _ = select.select([self._from], [], [], _SECONDS)
            assert readable, "the browser sends nothing any more"
            more = os.read(self._from, 1 << 20)
            assert more, "the browser is gone"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _take(self, event: dict[str, Any]) -> None:
        method, details = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(details["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.complaints.append(details["entry"]["text"])


@contextmanager
def _started(program: str, profile: Path, theirs_in: int, theirs_out: int) -> Iterator[None]:
    arguments = [
        program,
        "--headless=new",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        # The sandbox refuses root, and only our own page is opened. Containers have a small shm.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    # The protocol's pipes are descriptors 3 and 4. A shell moves them there.
    move = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    try:
        process = subprocess.Popen(
            ["bash", "-c", move, "bash", *arguments],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    try:
        yield
        process.wait(_SECONDS)
    finally:
        # The browser's child processes outlive it for a moment.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
