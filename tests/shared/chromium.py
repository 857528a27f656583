"""A page looked at by headless Chromium, spoken to by its debugging pipe: no port, no network, no driver."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
).split()
PATIENCE = 60  # seconds for an answer

# Elements that scroll inside their own box may be wider than the window; the box may not.
LOOK = """(() => {
  for (const d of document.querySelectorAll('details')) d.open = true;
  const outside = e => !(e.parentElement && e.parentElement.closest('.scroll'));
  const wide = [...document.querySelectorAll('body *')].filter(outside)
    .filter(e => { const r = e.getBoundingClientRect(); return r.right > innerWidth + 1 || r.left < -1; })
    .map(e => e.tagName + '.' + (e.getAttribute('class') || ''));
  const overlaps = [];
  for (const svg of document.querySelectorAll('svg')) {
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    const whole = svg.getBoundingClientRect();
    boxes.forEach(([a, p], i) => {
      if (p.left < whole.left - 1 || p.right > whole.right + 1) overlaps.push(a + ' leaves its chart');
      for (const [b, q] of boxes.slice(i + 1))
        if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > 0.5
            && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1.5) overlaps.push(a + ' / ' + b);
    });
  }
  const figures = [...document.querySelectorAll('svg, img')].map(e => {
    const r = e.getBoundingClientRect();
    return {tag: e.tagName.toLowerCase(), width: r.width, height: r.height, loaded: e.naturalWidth !== 0,
            said: e.getAttribute('alt') || e.getAttribute('aria-label') || ''};
  });
  const small = [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)
    .filter(h => h > 0 && h < 9);
  return {inner: innerWidth, page: document.documentElement.scrollWidth, wide, overlaps, figures, small: small.length,
          headings: [...document.querySelectorAll('h1, h2, h3, h4')].map(e => e.tagName + ' ' + e.textContent)};
})()"""


def find_chromium() -> str | None:
    """The program; None where there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Chromium:
    """A browser with one page."""

    def __init__(self, profile: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        line = f'exec "$@" 3<&{commands} 4>&{answers}'
        argv = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", line, "chromium", *argv], pass_fds=(commands, answers), stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(answers)
        self._rest, self._number, self.events = b"", 0, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)

    def look(self, page: Path, width: int, dark: bool = False) -> dict:
        """What LOOK finds at a width, with the console's errors and the addresses that were asked for."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        found = self.ask("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"]
        told = [
            e["params"] for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]
        told += [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return found | {"errors": told, "asked": asked}

    def ask(self, method: str, **params: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def _next(self) -> dict:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {PATIENCE} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError(f"Chromium ended with status {self.process.wait()}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
