"""A headless Chromium for the tests that look at pages, and what every page must keep to while it is open."""

import importlib.util
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOM = 64 << 30  # bytes of address space that Chromium reserves, without using them
HARM = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>\"'><b>bold"
"""Text that would do something were it not text."""


def why_none() -> str:
    """Why there is no browser here; "" where there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "pages are not looked at: no playwright (pip install playwright)"
    if executable() is None:
        return "pages are not looked at: no Chromium (apt-get install chromium)"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ROOM:
        return f"pages are not looked at: Chromium does not start in {limit >> 30} GB of address space (ulimit -v)"
    return ""


def executable() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable())
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """One browser window; what its pages complain of and ask for is written down."""

    def __init__(self, browser: Any, *, scheme: str = "light", width: int = 1280, height: int = 800) -> None:
        size = {"width": width, "height": height}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a page asked: {dialog.message}")
        dialog.dismiss()

    def open(self, path: Path, fragment: str = "") -> Any:
        self.page.goto(path.as_uri() + fragment)
        return self.page

    def check(self) -> None:
        """Nothing was complained of, nothing asked of a network, and the page is not wider than the window."""
        assert not self.complaints, self.complaints
        assert [url for url in self.requests if not url.startswith(("file://", "data:", "blob:"))] == []
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page is {wide} px wider than the window"

    def scripts(self) -> list[str]:
        """The names of the scripts that were loaded, from the last folders on."""
        return ["/".join(url.split("/")[-2:]) for url in self.requests if url.endswith(".js")]
