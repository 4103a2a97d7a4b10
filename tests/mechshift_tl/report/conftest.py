"""A real browser, cut off from every network, driven over the pipes of its DevTools protocol: no driver is installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
]


class Tab:
    """One tab of a headless Chromium. `problems` holds what the page complained of."""

    def __init__(self, profile: Path) -> None:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert chromium, "tests marked `browser` need Chromium on the PATH; deselect them with -m 'not browser'"
        # The browser reads commands from its descriptor 3 and answers on 4; each message ends with a zero byte.
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()
        shell = f'exec 3<&{read} 4>&{write}; exec "$0" "$@"'
        command = ["bash", "-c", shell, chromium, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read), os.close(write)
        self._rest, self._count, self._session = b"", 0, None
        self.problems: list[str] = []
        self.loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """The answer to one command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._hear(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path, width: int = 1280, height: int = 800, theme: str = "light", hash: str = "") -> None:
        """Load a file at a width of CSS pixels, in a theme that the system prefers."""
        self.loaded = False
        self.size(width, height)
        self.media(theme)
        self.ask("Page.navigate", url=path.as_uri() + hash)
        while not self.loaded:
            self._hear(self._next())
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")

    def size(self, width: int, height: int = 800) -> None:
        """Give the page a window of this size."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, theme: str = "light", kind: str = "screen") -> None:
        """What the system prefers ("light", "dark"), and the medium ("screen", "print")."""
        self.ask("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": theme}])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        got = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def picture(self, path: Path, whole: bool = False) -> Path:
        """A screenshot, of the window or of the whole page."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in), os.close(self._out)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _hear(self, event: dict[str, Any]) -> None:
        kind, said = event.get("method"), event.get("params", {})
        self.loaded |= kind == "Page.loadEventFired"
        if kind in ("Runtime.exceptionThrown", "Log.entryAdded") or (
            kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning")
        ):
            self.problems.append(json.dumps(said))


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a browser that runs for all tests."""
    one = Tab(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()
