"""Headless Chromium, driven over the W3C WebDriver protocol by chromedriver: HTTP and JSON, no package needed."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="the programs chromium and chromedriver are not installed: apt-get install chromium chromium-driver",
)
SECONDS = 90  # far more than a page takes, so that a busy machine does not fail


class Browser:
    """A session: pages are opened, typed into, asked by JavaScript, and photographed."""

    def __init__(self, address: str, flags: Sequence[str]) -> None:
        self.address = address
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *flags]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": options, "binary": shutil.which("chromium")}}
        self.session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def open(self, url: str) -> None:
        self._command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a JavaScript function body returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str) -> Any:
        """Wait until an expression of JavaScript is true, and return it."""
        end = time.monotonic() + SECONDS
        while not (found := self.run(f"return {script}")):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{script} stayed {found!r}; the page says: {self.run('return document.body.innerText')}"
                )
            time.sleep(0.05)
        return found

    def keys(self, text: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, *, width: int, height: int, scheme: str) -> None:
        """The size of the window, and whether the reader wants ``dark`` or ``light``."""
        mobile = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """The whole page, below the window's edge too."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._ask("DELETE", f"/session/{self.session}")

    def _command(self, method: str, path: str, body: Any = None) -> Any:
        return self._ask(method, f"/session/{self.session}{path}", body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


@contextmanager
def browsing(*flags: str) -> Iterator[Browser]:
    """A browser of its own, with further flags of Chromium."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        browser = Browser(f"http://127.0.0.1:{port}", flags)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(timeout=SECONDS)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder under Python's own file server, as `python -m http.server` serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _wait_for(port: int) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
