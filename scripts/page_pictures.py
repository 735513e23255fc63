"""Pictures of the web page in use, for the README and docs/serving.md.

Starts ``openjanus serve`` and drives its page with this machine's Chromium. What is drawn and said
is the model's own, for fixed prompts and seeds.

    python scripts/page_pictures.py --model nano --output docs/images
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import openjanus

MOST_BYTES = 150_000
COLOURS = 256
HALF = 0.55
SCENE = Path(openjanus.__file__).parent / "assets" / "demo" / "scene.png"
QUESTIONS = [
    "How many tennis rackets can you see?",
    "Name the thing above the toothbrush.",
    "Is there a computer keyboard in the picture?",
]
READY = "html[data-ready]"


@contextlib.contextmanager
def served(model: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server of its own, and its process."""
    code = "import sys; from openjanus.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.search(r"on (http://127\.0\.0\.1:\d+)", line)
                if found:
                    yield found[1], process
                    return
            raise RuntimeError(f"`openjanus serve --model {model}` ended before it served")
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.communicate()  # what it still writes must not block it


def keep(page: Page, path: Path) -> None:
    """Write what is seen, in few colours."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    if size > MOST_BYTES:
        raise RuntimeError(f"{path} has {size:,} bytes, the most is {MOST_BYTES:,}")


def draw(page: Page, prompt: str, seed: int, count: int) -> None:
    """Begin a drawing."""
    page.get_by_label("Describe a picture").fill(prompt)
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("radio", name=str(count)).check(force=True)
    page.get_by_role("button", name="Draw", exact=True).click()


def until_drawn(page: Page) -> None:
    """Wait for the end of it."""
    page.locator("#caption").wait_for()


def ask(page: Page, questions: list[str]) -> None:
    """Ask, and wait for each answer."""
    for question in questions:
        page.get_by_label("Ask", exact=True).fill(question)
        page.keyboard.press("Enter")
        page.locator(".turn.writing").wait_for()
        page.get_by_role("button", name="Ask", exact=True).wait_for()


def desktop(page: Page, folder: Path, server: subprocess.Popen[str]) -> None:
    """A drawing on its way, for which the server stands still, and a talk about it."""
    for prompt in ("a photo of a red car", "a photo of a yellow umbrella"):
        draw(page, prompt, 2, 1)
        until_drawn(page)
    draw(page, "a photo of a blue bird", 1, 4)
    while page.locator("#draw-bar").evaluate("bar => bar.value") < HALF:
        page.wait_for_timeout(10)
    server.send_signal(signal.SIGSTOP)
    keep(page, folder / "page-growing.png")
    server.send_signal(signal.SIGCONT)
    until_drawn(page)
    page.locator("#picture-file").set_input_files(SCENE)
    page.locator("#looked-image").wait_for()
    ask(page, QUESTIONS)
    page.evaluate("scrollTo(0, 0)")
    keep(page, folder / "page.png")


def phone(page: Page, folder: Path, _: subprocess.Popen[str]) -> None:
    """The same, of a phone's width."""
    settings = page.get_by_text("Settings", exact=True)
    settings.click()
    draw(page, "a photo of a purple umbrella", 1, 1)
    until_drawn(page)
    settings.click()
    keep(page, folder / "page-phone.png")


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description="Pictures of the web page in use.")
    parser.add_argument("--model", default="nano", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="(%(default)s)")
    args = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        parser.error("no Chromium here: apt-get install chromium")
    with served(args.model) as (url, server), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--no-proxy-server"]
        )
        desk = browser.new_page(viewport={"width": 1200, "height": 1000}, color_scheme="light")
        small = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        for take, page in ((desktop, desk), (phone, small)):
            page.goto(url)
            page.wait_for_selector(READY)
            take(page, args.output, server)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
