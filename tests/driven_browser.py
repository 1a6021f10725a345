"""A headless Chromium that is told what to do and asked what it sees. No address but this machine's resolves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.browser import browser

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
# The browser reads its orders from descriptor 3 and answers on 4.
_RUN = 'exec "$0" "$@" 3<&{orders} 4>&{answers}'


class Driven:
    """One tab. `console` has what its pages complained of."""

    def __init__(self, orders: int, answers: int) -> None:
        self.console: list[str] = []
        self._orders = os.fdopen(orders, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._calls = 0
        self._session: str | None = None
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        attached = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> Any:
        """Gives an order of Chrome's DevTools protocol, and waits for its answer."""
        self._calls += 1
        order = {"id": self._calls, "method": method, "params": parameters}
        if self._session is not None:
            order["sessionId"] = self._session
        self._orders.write(json.dumps(order).encode() + b"\0")
        while (message := self._read()).get("id") != self._calls:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, url: str) -> None:
        self.tell("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of an expression in the page; a promise's once it is kept."""
        answer = self.tell(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Returns once an expression is true in the page; it is looked at with every frame."""
        self.ask(
            "new Promise((kept, broken) => { setTimeout(broken, 90000, 'it never came true');"
            f"const look = () => ({condition}) ? kept() : requestAnimationFrame(look); look(); }})"
        )

    def picture(self, path: Path, width: int = 1280, *, dark: bool = False) -> None:
        """Saves what the whole page looks like, as PNG."""
        self.wear(width, dark=dark)
        height = self.ask("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def wear(self, width: int, *, dark: bool) -> None:
        """Makes the window so wide, of light or dark colours."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (letter := self._answers.read(1)) != b"\0":
            assert letter, "the browser is gone"
            text += letter
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        found = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(str([each.get("value") for each in found["args"]]))
            case "Runtime.exceptionThrown":
                self.console.append(str(found["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(found["entry"]["text"])


@contextlib.contextmanager
def driven(folder: Path) -> Iterator[Driven]:
    """A browser of its own, gone at the end."""
    binary = browser()
    assert binary is not None, "callers skip where there is no browser"
    their_orders, orders = os.pipe()
    answers, their_answers = os.pipe()
    run = _RUN.format(orders=their_orders, answers=their_answers)
    process = subprocess.Popen(
        ["bash", "-c", run, binary, *_FLAGS, f"--user-data-dir={folder / 'driven'}"],
        pass_fds=(their_orders, their_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_orders)
    os.close(their_answers)
    try:
        tab = Driven(orders, answers)
        yield tab
        tab._orders.close()
        tab._answers.close()
    finally:
        process.kill()
        process.wait()
