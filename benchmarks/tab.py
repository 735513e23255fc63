"""How long a drawing takes in a browser's tab, and how many of its ids are Python's.

    python benchmarks/tab.py PAGE [--model MODEL] [--prompts N] [--seed S] [--output FILE]
        [--screenshot FILE]

PAGE is the folder that `openjanus export web PAGE --model MODEL` wrote. It is handed out by a plain
file server and opened in this machine's Chromium, headless. Prompts are those of ``best_of.py``:
held-out cells, as many of each of GenEval's six tags, each with a seed of its own. `ours` and
`theirs` are median seconds a drawing in the tab and in Python, weights packed and looking ahead,
`ratio` the median over the prompts of the quotients: they take turns, on one machine. `equal`
counts drawings, and `ids` ids, that are those of Python's plain weights in fp32; `opening` are
seconds until the page may draw, `bytes` all that it loads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from best_of import requests
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tqdm import tqdm

import openjanus

OPENING_MS = 120_000
DRAW = """async (body) => {
    const { draw } = await import(new URL("page/api.js", location.href));
    const began = performance.now();
    for await (const event of draw(body)) {
        if (event.image_ids) return [event.image_ids, (performance.now() - began) / 1000];
    }
}"""


class Quiet(SimpleHTTPRequestHandler):
    """A plain file server."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (as it is called there)
        """Say nothing."""


@contextlib.contextmanager
def handed_out(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def compare(page: Page, model: str, prompts: list[str], first_seed: int) -> dict[str, Any]:
    """Every prompt in the tab and in Python, in turn."""
    plain = openjanus.load(model, device="cpu", dtype="float32")
    packed = openjanus.load(model, device="cpu", dtype="float32")
    packed.pack()
    drawing = plain.config.drawing
    options = {"guidance_scale": drawing.guidance_scale, "temperature": drawing.temperature}
    seconds: list[tuple[float, float]] = []
    equal: list[list[bool]] = []
    for index, prompt in enumerate(tqdm(prompts, unit="drawing")):
        seed = first_seed + index
        body = {"prompt": prompt, "n": 1, "seed": seed, **options}
        ids, ours = page.evaluate(DRAW, body)
        began = time.perf_counter()
        packed.draw(prompt, seed=seed)
        seconds.append((ours, time.perf_counter() - began))
        expected = plain.draw(prompt, seed=seed).image_ids[0].tolist()
        equal.append([a == b for a, b in zip(ids, expected, strict=True)])
    return {
        "ours": round(statistics.median(ours for ours, _ in seconds), 3),
        "theirs": round(statistics.median(theirs for _, theirs in seconds), 3),
        "ratio": round(statistics.median(theirs / ours for ours, theirs in seconds), 3),
        "unit": "seconds a drawing",
        "equal": [sum(map(all, equal)), len(equal)],
        "ids": [sum(map(sum, equal)), sum(map(len, equal))],
    }


def show(page: Page, path: Path) -> None:
    """A picture of the page in use."""
    page.get_by_label("Describe a picture").fill("a photo of a purple umbrella")
    page.get_by_label("Seed", exact=True).fill("1")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator("#caption").wait_for(timeout=OPENING_MS)
    page.locator("#grid figcaption button").first.click()
    page.locator("#looked-image").wait_for()
    for question in ("What is in the picture?", "What colour is the umbrella?"):
        page.get_by_label("Ask", exact=True).fill(question)
        page.keyboard.press("Enter")
        page.locator(".turn.writing").wait_for()
        page.get_by_role("button", name="Ask", exact=True).wait_for(timeout=OPENING_MS)
    page.evaluate("scrollTo(0, 0)")
    page.locator("h1").click()
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        few = image.convert("RGB").quantize(256)  # which takes half the bytes
    few.save(path, optimize=True)


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", metavar="PAGE", type=Path)
    parser.add_argument("--model", default="nano", help="(%(default)s)")
    parser.add_argument("--prompts", type=int, default=24, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON of the figures")
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="PNG of the page in use")
    args = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        parser.error("no Chromium here: apt-get install chromium")
    with handed_out(args.page) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--no-proxy-server"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#tab-state", state="hidden", timeout=OPENING_MS)
        opening = time.perf_counter() - began
        if args.screenshot is not None:
            show(page, args.screenshot)
        prompts = [line["prompt"] for line in requests(args.prompts)]
        found = {"tab": compare(page, args.model, prompts, args.seed)}
        browser.close()
    found["tab"]["opening"] = round(opening, 2)
    found["tab"]["bytes"] = sum(p.stat().st_size for p in args.page.rglob("*") if p.is_file())
    print(json.dumps(found, indent=2))
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
