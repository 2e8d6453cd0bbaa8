"""Chromium without a window, driven over its debugging pipe: no package beside the browser."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """Path of an installed Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. Messages are JSON with a zero byte at the end, on the file descriptors 3 and 4."""

    def __init__(self, path, width=1200, height=900):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        command = [path, *options, "--no-first-run", "--disable-extensions"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]
        command += [f"--window-size={width},{height}", "about:blank"]
        # the descriptors must be 3 and 4 in the child, and only a shell moves them there
        moved = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *command],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.send("Page.enable")

    def send(self, method, **params):
        """Send a command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url):
        """Go to an address."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)}")

    @contextlib.contextmanager
    def offline(self):
        """Let every request of the page fail, also on connections that are open already."""
        rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.send("Network.enable")
        self.send("Network.emulateNetworkConditions", offline=True, **rates)
        try:
            yield
        finally:
            self.send("Network.emulateNetworkConditions", offline=False, **rates)
            self.send("Network.disable")

    def run(self, code):
        """Evaluate JavaScript, also with `await`, and return its value."""
        options = {"awaitPromise": True, "returnByValue": True, "replMode": True}
        result = self.send("Runtime.evaluate", expression=code, **options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition, seconds=20):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"not {condition}: {self.text()[:500]}")
            time.sleep(0.02)

    def text(self):
        """What the page shows."""
        return self.run("document.body ? document.body.innerText : ''")

    def click(self, selector, number=0):
        """Click with the mouse on the middle of an element."""
        place = self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            options = {"button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **options)

    def press(self, key):
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def resize(self, width, height, dark=False):
        """Set the size of the window, and the colour scheme."""
        options = {"deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **options)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path):
        """Write a picture of the window."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()
