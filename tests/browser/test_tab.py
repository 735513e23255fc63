"""The page that runs a model in the browser: the same ids and words as in Python."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.engine.noise import gumbel_noise
from openjanus.engine.sampling import apply_temperature_top_k_top_p, guide
from openjanus.pipeline import Janus
from openjanus.pipeline.load import describe
from openjanus.processor.text import train_tokenizer
from openjanus.web.export import write_page
from openjanus.web.manifest import describe_tokenizer
from openjanus.web.runtime import copy_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OPENING_MS = 60_000
"""A runtime of 14 MB is compiled, on whatever machine."""

DRAW = """async (body) => {
    const { draw } = await import(new URL("page/api.js", location.href));
    const events = [];
    for await (const event of draw(body)) events.push(event);
    return events;
}"""
TOLD = """async ([kind, body]) => {
    const ask = (await import(new URL("page/api.js", location.href)))[kind];
    try { for await (const event of ask(body)); } catch (error) { return error.message; }
}"""
CHAT = """async (body) => {
    const { chat } = await import(new URL("page/api.js", location.href));
    let text = "";
    for await (const piece of chat(body)) text += piece;
    return text;
}"""


class Quiet(SimpleHTTPRequestHandler):
    """A plain file server."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (as it is called there)
        """Say nothing."""

    def end_headers(self) -> None:
        """Let browsers keep what they want to, as they do by themselves with an old file."""
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


@pytest.fixture(scope="module")
def address(tab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a plain file server has the page."""
    folder = tmp_path_factory.mktemp("site")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("npm_config_fetch_retries", "0")
            version = copy_runtime(folder / "runtime")
    except OSError as error:
        if os.environ.get("OPENJANUS_REQUIRE_BROWSER") == "1":
            raise
        pytest.skip(str(error))
    write_page(folder, licence="none", runtime=f"onnxruntime-web {version}")
    shutil.copytree(tab_folder, folder / "model")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def tab(browser: Browser, address: str) -> Iterator[Page]:
    """The page with its model opened, for what is asked of its scripts."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#tab-state", state="hidden", timeout=OPENING_MS)
    yield page
    context.close()


def asked(tab: Page, script: str, function: str, *arguments: Any) -> Any:
    """What a function of a script gives; its arguments and result are JSON."""
    return tab.evaluate(
        f"""async (given) => {{
            const script = await import(new URL("tab/{script}.js", location.href));
            return await ({function})(script, ...given);
        }}""",
        list(arguments),
    )


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def shown(picture: Image.Image) -> dict[str, Any]:
    """A part of a message."""
    url = f"data:image/png;base64,{b64encode(png(picture)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 0, "guidance_scale": 5.0, "temperature": 1.0},
        {"seed": 2**53 - 1, "guidance_scale": 1.0, "temperature": 0.7, "top_k": 9, "top_p": 0.8},
        {"seed": 3, "guidance_scale": 2.5, "temperature": 0.0, "negative_prompt": "a long tail"},
    ],
    ids=["guided", "cut", "greedy"],
)
def test_a_seed_draws_the_same_ids_as_in_python(tab: Page, janus: Janus, options):
    drawing = janus.draw("a red car", n=2, **options)
    events = tab.evaluate(DRAW, {"prompt": "a red car", "n": 2, **options})
    whole = [event for event in events if event["type"] == "image_generation.completed"]
    assert [event["image_ids"] for event in whole] == drawing.image_ids.tolist()
    assert [event["seed"] for event in whole] == [drawing.seed] * 2
    for event, image in zip(whole, drawing.images, strict=True):
        found = np.asarray(picture_of(event)).astype(int)
        assert np.abs(found - np.asarray(image)).max() <= 1


def picture_of(event: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(event["b64_json"]))).convert("RGB")


def test_a_picture_grows_row_by_row(tab: Page, janus: Janus):
    body = {"prompt": "a red car", "n": 1, "seed": 1, "guidance_scale": 5.0, "temperature": 1.0}
    events = tab.evaluate(DRAW, body)
    expected = list(janus.draw_stream("a red car", seed=1, partial_images=3))
    assert [event["type"].rpartition(".")[2] for event in events] == [
        *["partial_image"] * 3,
        "completed",
    ]
    side = janus.config.gen_image_size // 4
    for row, (event, other) in enumerate(zip(events[:3], expected[:3], strict=True)):
        found = np.asarray(picture_of(event)).astype(int)
        known = slice(0, (row + 1) * side)
        assert np.abs(found - np.asarray(other.image))[known].max() <= 1
        assert (found[known.stop :] == 127).all()


def test_it_answers_with_the_same_words_as_in_python(tab: Page, janus: Janus, picture):
    content = [shown(picture), {"type": "text", "text": "What is this?"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    reply = janus.chat(messages, max_new_tokens=24)
    assert tab.evaluate(CHAT, {"messages": messages, "max_tokens": 24}) == reply.text
    messages += [
        {"role": "assistant", "content": "A “Bär”."},
        {"role": "user", "content": "And  now? 一二 "},
    ]
    options = {"temperature": 1.0, "seed": 5}
    reply = janus.chat(messages, max_new_tokens=24, **options)
    assert tab.evaluate(CHAT, {"messages": messages, "max_tokens": 24, **options}) == reply.text


def test_what_is_left_out_is_the_models_own(tab: Page, janus: Janus):
    whole = tab.evaluate(DRAW, {"prompt": "a red car", "seed": 7})[-1]
    assert whole["image_ids"] == janus.draw("a red car", seed=7).image_ids[0].tolist()
    messages = [
        {"role": "system", "content": " Be brief."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "And now?"},
    ]
    told = [messages[0], messages[1], messages[3]]  # as the server does
    reply = janus.chat(told, max_new_tokens=9)
    assert tab.evaluate(CHAT, {"messages": messages, "max_completion_tokens": 9}) == reply.text


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("chat", "<begin_of_image> hello", "take it out"),
        ("chat", "word " * 300, "use fewer words"),
        ("chat", " ", "question"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "role is system, user or"),
        ("chat", {"messages": "hello"}, "messages must be a list"),
        ("draw", {"n": 10}, "n must be a whole number from 1 to 9, got 10"),
        ("draw", {"seed": 2**53}, "from 0 to 9007199254740991"),
        ("draw", {"seed": -1}, "seed must be"),
        ("draw", {"temperature": -0.5}, "temperature must be 0 or more"),
        ("draw", {"top_k": 0}, "top_k must be"),
        ("draw", {"guidance_scale": 1, "negative_prompt": "dogs"}, "does nothing at guidance 1"),
        ("draw", {"guidance": 1}, "guidance is not known in a tab"),
        ("draw", {"prompt": None}, "prompt must be a text, got null"),
    ],
)
def test_what_cannot_be_done_is_told(tab: Page, kind, body, told):
    if isinstance(body, str):
        body = {"messages": [{"role": "user", "content": body}]}
    elif kind == "draw":
        body = {"prompt": "a red car", **body}
    assert told in tab.evaluate(TOLD, [kind, body])


def test_what_breaks_does_not_break_what_comes_next(tab: Page):
    broken = {"messages": [{"role": "user", "content": [None]}]}  # which nobody foresaw
    assert "Something broke in this tab" in tab.evaluate(TOLD, ["chat", broken])
    assert len(tab.evaluate(DRAW, {"prompt": "a red car", "seed": 1})) == 4


def test_how_far_it_is_opened_is_seen_and_not_read_out_each_time(page: Page, address: str):
    page.add_init_script("""window.said = new Set();
        window.seen = new Set();
        new MutationObserver(() => {
            const place = document.getElementById("tab-state");
            if (!place?.lastElementChild?.ariaHidden) return;
            seen.add(place.innerText);
            said.add(place.firstChild.nodeValue);
        }).observe(document, { childList: true, subtree: true, characterData: true });""")
    page.goto(address)
    page.wait_for_selector("#tab-state", state="hidden", timeout=OPENING_MS)
    assert page.evaluate("[...said]") == ["Loading the model", ""]
    assert any("MB" in text for text in page.evaluate("[...seen]"))


def test_a_model_at_the_address_of_another_is_not_taken_for_it(
    page: Page, address: str, tab_folder: Path, monkeypatch
):
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url.removeprefix(address)))
    page.goto(address)
    page.wait_for_selector("#tab-state", state="hidden", timeout=OPENING_MS)
    facts = json.loads((tab_folder / "model.json").read_text(encoding="utf-8"))
    assert {f"model/{name}?{digest}" for name, digest in facts["digests"].items()} <= asked
    answer = Quiet.do_GET

    def another(handler: Quiet) -> None:
        if not handler.path.startswith("/model/model.json"):
            return answer(handler)
        body = json.dumps(facts | {"name": "another"}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return None

    monkeypatch.setattr(Quiet, "do_GET", another)
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#model-name:not(:empty)")
    assert page.inner_text("#model-name") == "another"


def test_noise_is_that_of_python(tab: Page):
    for seed, stream, position, size in [(0, 0, 0, 5), (2**64 - 1, 7, 143, 64), (12345, 3, 9, 1)]:
        found = asked(
            tab,
            "noise",
            """(s, seed, stream, at, size) =>
                [...s.gumbelNoise(s.streamKey(BigInt(seed), stream), at, size)]""",
            str(seed),
            stream,
            position,
            size,
        )
        expected = gumbel_noise(seed, stream, torch.tensor([position]), size, "cpu")[0]
        # Two libraries' logarithms may round a double differently, and a float once in 10^8.
        assert np.allclose(found, expected.numpy(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("top_k", [None, 1, 7, 500])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 1.0])
def test_logits_are_cut_as_in_python(tab: Page, top_k, top_p):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 64, generator=generator).mul(2).round(decimals=1)  # with ties
    guided = guide(logits[:1], logits[1:], torch.tensor([3.3]))
    expected = apply_temperature_top_k_top_p(
        guided,
        torch.tensor([0.7]),
        None if top_k is None else torch.tensor([min(top_k, 64)]),
        None if top_p is None else torch.tensor([top_p]),
    )[0]
    found = asked(
        tab,
        "sampling",
        """(s, c, u, topK, topP) => [...s.cut(
            s.guide(Float32Array.from(c), Float32Array.from(u), 3.3),
            { temperature: 0.7, topK, topP })].map((x) => (x === -Infinity ? null : x))""",
        logits[0].tolist(),
        logits[1].tolist(),
        top_k,
        top_p,
    )
    assert [-np.inf if x is None else x for x in found] == expected.tolist()


def test_many_likely_ids_are_cut_at_the_same_place_as_in_python(tab: Page):
    logits = torch.randn(40, 4096, generator=torch.Generator().manual_seed(0))
    shares = torch.linspace(0.02, 0.99, 40)
    kept = apply_temperature_top_k_top_p(logits, torch.ones(40), None, shares).isfinite().sum(-1)
    found = asked(
        tab,
        "sampling",
        """(s, rows, shares) => rows.map((row, i) => s
            .cut(Float32Array.from(row), { temperature: 1, topP: shares[i] })
            .filter((x) => x !== -Infinity).length)""",
        logits.tolist(),
        shares.tolist(),
    )
    assert found == kept.tolist()


TEXTS = [
    "a photo of three apples",
    "  It's  what we'll say:\n\n\tthe dog's, they've'd 12,345 km² ½ ",
    "Größe “naïve” — 你好，世界 🐕‍🦺 a\u00a0b\u3000c\x85d\ufeffe\x1cf",
    "<|User|>: hello<begin_of_image><image_placeholder><|Assistant|>:",
    "",
    " ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n  x",
]


@pytest.mark.parametrize("kind", ["tiny", "nano", "han"])
def test_words_are_the_same_ids_as_in_python(tab: Page, janus: Janus, kind):
    if kind == "han":
        texts = ["你好 世界 一只红色的狗 two dogs"] * 3
        tokenizer = train_tokenizer(texts, 300, janus.config.processor, split_han=True)
    else:
        tokenizer = describe(kind)[2]
    ids = [tokenizer.encode(text) for text in TEXTS]
    ids.append([*range(tokenizer.vocab_size), 10**6])
    ids.append([200, 150, 255, 7, 201])  # broken characters
    found = asked(
        tab,
        "tokenizer",
        """(s, data, texts, ids) => {
            const tokenizer = new s.Tokenizer(data);
            const encoded = texts.map((text) => tokenizer.encode(text));
            return [encoded, ids.map((one) => tokenizer.decode(one))];
        }""",
        json.loads(json.dumps(describe_tokenizer(tokenizer))),
        TEXTS,
        ids,
    )
    assert found[0] == ids[: len(TEXTS)]
    assert found[1] == [tokenizer.decode(one) for one in ids]


@pytest.mark.parametrize("size", [(40, 30), (7, 9), (301, 123), (32, 32), (200, 3)])
def test_a_picture_is_resized_to_the_same_pixels(tab: Page, janus: Janus, size):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    how = janus.config.processor
    rules = {
        "size": janus.config.und_image_size,
        "min_size": how.min_size,
        "mean": how.image_mean,
        "std": how.image_std,
    }
    found = asked(
        tab,
        "pictures",
        """async (s, url, rules) => {
            const file = await (await fetch(url)).blob();
            return [...s.pixelValues(await s.openPicture(file), rules)];
        }""",
        shown(picture)["image_url"]["url"],
        rules,
    )
    assert found == janus.processor.und_pixels([picture]).flatten().tolist()


def test_a_person_draws_asks_stops_and_is_told(page: Page, address: str, tmp_path: Path):
    page.goto(address)
    page.fill("#prompt", "a red car")
    page.click("#draw-go")  # before the model is there
    page.wait_for_selector("#caption:not([hidden])", timeout=OPENING_MS)
    width = "async (image) => { await image.decode(); return image.naturalWidth; }"
    assert page.locator("#grid img").evaluate(width) == 32
    assert page.is_hidden("#tab-state")
    page.context.set_offline(True)  # from here on it needs nobody
    page.locator("#grid figcaption button").first.click()
    page.fill("#question", "What is this?")
    page.click("#talk-go")
    page.wait_for_selector("#log[aria-busy=false]")
    assert page.locator(".turn.assistant").inner_text() != ""

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    page.set_input_files("#picture-file", broken)
    page.wait_for_selector("#talk-note:not([hidden])")
    assert "no picture" in page.inner_text("#talk-note")

    page.check("input[name=count][value='9']", force=True)
    page.click("#draw-go")
    page.wait_for_selector("#grid img")
    page.click("#draw-stop")
    page.wait_for_selector("#draw-note:not([hidden])")
    assert page.inner_text("#draw-note") == "Stopped."
    page.check("input[name=count][value='1']", force=True)
    page.click("#draw-go")
    page.wait_for_selector("#caption:not([hidden])")
    assert page.is_hidden("#draw-note")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("model/weights.f32", "model/weights.f32 is missing"),
        ("runtime/ort.wasm", "cannot run in this tab"),
        ("runtime/ort.js", "a file of this page is missing"),
    ],
)
def test_a_missing_file_is_told(page: Page, address: str, file, told):
    page.route(f"**/{file}*", lambda route: route.fulfill(status=404))
    page.goto(address)
    page.wait_for_selector("#tab-state.error", timeout=OPENING_MS)
    assert told in page.inner_text("#tab-state")
    page.fill("#prompt", "a red car")
    page.click("#draw-go")
    page.wait_for_selector("#draw-note.error")
    assert told in page.inner_text("#draw-note")
