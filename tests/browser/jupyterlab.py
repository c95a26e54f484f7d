"""Open notebooks in JupyterLab in a real browser, run them, look at them, take pictures.

    pip install jupyterlab playwright        # and a Chromium, such as Debian's
    python tests/browser/jupyterlab.py --pictures pictures

Exits with an error if a cell fails, or if tables or plots are not shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--allow-root",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    environment = {**os.environ, "GODB_ARROW_NOTEBOOK_SCALE": "0.2"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/lab", timeout=2)
            return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise SystemExit("JupyterLab did not start")


def run(page: Any, port: int, name: str, pictures: Path) -> None:
    page.goto(f"http://127.0.0.1:{port}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_timeout(4000)  # A kernel that is not ready shows no dialog.
    page.click("text=Kernel >> nth=0")
    page.click("text=Restart Kernel and Clear Outputs of All Cells…")
    page.click(".jp-Dialog button:has-text('Restart')")
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea-output').length == 0")
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells >> nth=0")
    page.wait_for_timeout(2000)
    # A notebook is done when no cell waits ([*]) and the last code cell has its number.
    done = """() => {
        const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .map(one => one.textContent);
        return prompts.length && prompts.every(one => /\\[\\d+\\]/.test(one));
    }"""
    ends = time.monotonic() + 300
    while not page.evaluate(done):
        if time.monotonic() > ends:
            raise SystemExit(f"{name} did not end")
        # Cells are put into the page when they come into view.
        page.keyboard.press("Escape")
        page.mouse.move(700, 500)
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(300)
    errors = page.locator(".jp-OutputArea-output[data-mime-type*='error'], .jp-RenderedText "
                          "pre:has-text('Traceback')").count()  # fmt: skip
    assert errors == 0, f"{name}: {errors} cells failed"
    tables = page.locator(".jp-RenderedHTML table").count()
    plots = page.locator(".jp-RenderedImage img").count()
    print(f"{name}: {tables} tables, {plots} plots")
    assert tables >= 1, name
    assert plots >= 1, name
    for number, output in enumerate(page.locator(".jp-RenderedHTML, .jp-RenderedImage").all()):
        if number < 8:
            output.scroll_into_view_if_needed()
            output.screenshot(path=pictures / f"{name}-{number}.png")
    page.locator(".jp-RenderedImage").last.scroll_into_view_if_needed()
    page.screenshot(path=pictures / f"{name}.png")


def completion(page: Any, pictures: Path) -> None:
    """Tab knows the collections of an engine."""
    page.click("text=Run >> nth=0")
    page.keyboard.press("Escape")
    page.locator(".jp-CodeCell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type("from godb_arrow import StorageEngine\n")
    page.keyboard.type("tab = StorageEngine('tab')\n")
    page.keyboard.type("tab.create_collection('flowers')\n")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(1500)
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type('tab["flo')
    page.keyboard.press("Tab")
    page.wait_for_timeout(2500)
    page.screenshot(path=pictures / "completion.png")
    text = page.locator(".jp-Cell.jp-mod-active .cm-content").all_text_contents()
    shown = page.locator(".jp-Completer").all_text_contents()
    assert any("flowers" in one for one in [*text, *shown]), f"Tab shows nothing: {text}"
    print("Tab completes a collection")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--notebooks", nargs="*", default=["01_quickstart", "05_engine_internals"])
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.notebooks:
            shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder)
        port = free_port()
        process = start(Path(folder), port)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = browser.new_page(viewport={"width": 1400, "height": 1100})
                for name in arguments.notebooks:
                    run(page, port, name, arguments.pictures)
                completion(page, arguments.pictures)
                browser.close()
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
