"""Take pictures of pages of the built site in a real browser: light, dark, and on a phone.

    pip install -e '.[docs]' playwright      # and a Chromium, such as Debian's
    mkdocs build
    python tests/browser/site.py --pictures pictures [--pages index engine]

Exits with an error if a page is wider than its window, lacks an image, or logs an error.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import threading
from pathlib import Path
from typing import Any

SITE = Path(__file__).parents[2] / "build" / "site"
CHROMIUM = "/usr/bin/chromium"
FORMS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
_TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
_MISSING = (
    "[...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src)"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Server of files that logs nothing."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def main() -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--pages", nargs="*")
    parser.add_argument("--whole", action="store_true", help="the whole page, not one window")
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    built = sorted(path.parent.name for path in SITE.glob("*/index.html"))
    pages = options.pages or ["index", *built]
    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for form, settings in FORMS.items():
            page = browser.new_page(**settings)
            errors: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            for name in pages:
                place = "" if name == "index" else f"{name}/"
                page.goto(f"http://127.0.0.1:{server.server_port}/{place}")
                page.wait_for_timeout(150)
                target = options.pictures / f"{name}-{form}.png"
                page.screenshot(path=target, full_page=options.whole)
                faults += [f"{name}, {form}: {error}" for error in errors]
                errors.clear()
                if page.evaluate(_TOO_WIDE):
                    faults.append(f"{name}, {form}: wider than the window")
                faults += [f"{name}, {form}: no image {one}" for one in page.evaluate(_MISSING)]
            page.close()
        browser.close()
    server.shutdown()
    print(*faults, f"{len(pages)} pages, {len(faults)} faults", sep="\n")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
