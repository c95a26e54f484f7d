"""Take pictures of pages of the built site in a real browser: light, dark, and on a phone.

    pip install -e '.[docs]' playwright      # and a Chromium, such as Debian's
    mkdocs build
    python tests/browser/site.py --pictures pictures [--pages index engine] [--questions]

With --questions it types the words of each question in docs/index.md into the site's search, and
expects the page with the answer among the first five.

Exits with an error if a page is wider than its window, lacks an image, or logs an error.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import re
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
MAX_RESULTS = 5
_WORDS = """
a again an and are be can did do does from get go how i in is it large make many may much my of on
or see should so take than that the to turn use what which why with
"""
_LEFT = frozenset(_WORDS.split())
"""Words of questions that are not typed into a search."""
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


def ask(page: Any, url: str) -> list[str]:
    """Type each question into the search; return the questions whose answer is not found."""
    rows = re.findall(r"^\| (.+\?) \| \[.+\]\((\w+)\.md(?:#([\w-]+))?\) \|$",
                      (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)  # fmt: skip
    faults = []
    for question, name, anchor in rows:
        page.goto(url)
        page.click(".md-search__input")
        words = re.sub(r"[?,]", "", question).split()
        page.keyboard.type(" ".join(word for word in words if word.lower() not in _LEFT))
        page.wait_for_selector(".md-search-result__item a")
        found: list[str] = []
        same = 0
        while same < 4:  # the results of what was typed first are replaced
            page.wait_for_timeout(250)
            now = page.locator(".md-search-result__item a").evaluate_all(
                "links => links.map(link => link.getAttribute('href'))"
            )
            same = same + 1 if now == found else 0
            found = now
        names = (re.search(r"/(\w+)/(?:[?#]|$)", link) for link in found)
        pages = list(dict.fromkeys(name[1] for name in names if name))
        place = pages.index(name) + 1 if name in pages else 0
        exact = not anchor or any(re.search(rf"/{name}/.*#{anchor}$", link) for link in found)
        print(f"{place or '-':>3} {'exact' if exact else '     '} {question} → {name}#{anchor}")
        if not 0 < place <= MAX_RESULTS:
            faults.append(f"the search does not answer: {question} ({', '.join(pages[:5])})")
    return faults


def main() -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--pages", nargs="*")
    parser.add_argument("--whole", action="store_true", help="the whole page, not one window")
    parser.add_argument("--questions", action="store_true", help="ask the site's search")
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
        if options.questions:
            page = browser.new_page(**FORMS["light"])
            faults += ask(page, f"http://127.0.0.1:{server.server_port}/")
        browser.close()
    server.shutdown()
    print(*faults, f"{len(pages)} pages, {len(faults)} faults", sep="\n")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
