"""The server's page in a browser: drawing, talking, stopping, errors, keys, keyboard, a phone."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image

from openjanus.pipeline import Janus
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions
from openjanus.serve.room import Room
from openjanus.serve.server import build_server, listening_socket

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

SECONDS = 20
TOKENS = 24
READ = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/png");
}"""


@contextlib.contextmanager
def serving(janus: Janus, **options) -> Iterator[tuple[str, Room]]:
    chosen = ServeOptions(model_names=("tiny",), port=0, **options)
    with (
        listening_socket(chosen) as listening,
        Room(janus, max_jobs=8, metrics=Metrics()) as room,
    ):
        server = build_server(room, chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", room
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of chance never end a reply."""
    monkeypatch.setattr("openjanus.serve.chat.MAX_NEW_TOKENS", TOKENS)


@pytest.fixture(scope="module")
def site(browser, janus: Janus) -> Iterator[tuple[str, Room]]:
    with serving(janus) as found:
        yield found


@pytest.fixture
def slow(site: tuple[str, Room], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the engine takes time, so that what is on its way is seen."""
    engine = site[1].thread.engine
    step = engine.step

    def slow_step() -> list:
        time.sleep(0.1)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    page.locator("html[data-ready]").wait_for()


def picture_file(colour: tuple[int, int, int] = (200, 30, 30)) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (48, 36), colour).save(file, "PNG")
    return {"name": "red.png", "mimeType": "image/png", "buffer": file.getvalue()}


def images_shown(page: Page) -> list[bytes]:
    """The pixels of the stage's pictures."""
    addresses = page.locator("#grid img").evaluate_all(
        f"images => Promise.all(images.map(image => image.decode().then(() => ({READ})(image))))"
    )
    return [pixels_of(address) for address in addresses]


def pixels_of(address: str) -> bytes:
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return image.convert("RGB").tobytes()


def draw(page: Page, prompt: str, *, seed: int | str = 3) -> None:
    page.get_by_label("Describe a picture").fill(prompt)
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="Draw", exact=True).click()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Ask", exact=True).fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def replied(page: Page) -> str:
    page.locator("#log[aria-busy=false] .turn.assistant").last.wait_for()
    return page.locator(".turn.assistant").last.inner_text()


def test_a_drawing_grows_and_ends_in_what_the_library_draws(page, site, slow, janus) -> None:
    open_page(page, site[0])
    page.evaluate(
        f"""window.states = [];
        const seen = event => event.target.closest("#grid") && states.push(({READ})(event.target));
        document.addEventListener("load", seen, true);"""
    )
    draw(page, "a red car")
    page.locator("#caption").wait_for()
    assert images_shown(page) == [janus.draw("a red car", seed=3).images[0].tobytes()]
    states = [pixels_of(address) for address in page.evaluate("window.states")]
    assert states[-1] == images_shown(page)[0]
    assert len(set(states)) == len(states) == 4  # a grid of 4 x 4: a state after each row
    assert "seed 3" in page.locator("#caption-text").inner_text()


def test_several_are_drawn_saved_kept_and_cleared(page, site, janus) -> None:
    open_page(page, site[0])
    page.get_by_role("radio", name="2").check(force=True)
    draw(page, "Two dogs, above!", seed=5)
    page.locator("#caption").wait_for()
    expected = janus.draw("Two dogs, above!", n=2, seed=5)
    assert images_shown(page) == [i.tobytes() for i in expected.images]
    with page.expect_download() as found:
        page.get_by_role("button", name=re.compile("^Save: .*picture 2 of 2")).click()
    assert found.value.suggested_filename == "two-dogs-above-seed-5-2.png"

    page.get_by_role("button", name="Again with another seed").click()
    page.locator("#strip li").nth(1).wait_for()  # kept once the browser has written it
    assert page.locator("#strip li").count() == 2
    assert images_shown(page) != [i.tobytes() for i in expected.images]

    open_page(page, site[0])  # the history is the browser's
    page.get_by_role("button", name="Show again: Two dogs, above!, seed 5").click()
    assert images_shown(page) == [i.tobytes() for i in expected.images]
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("button", name="Really clear all?").click()
    page.locator("#history").wait_for(state="hidden")
    open_page(page, site[0])
    assert page.locator("#history").is_hidden()


@pytest.mark.parametrize(
    "hand_over",
    [
        "files => dispatchEvent(new DragEvent('drop', {dataTransfer: files, cancelable: true}))",
        "files => dispatchEvent(new ClipboardEvent('paste', {clipboardData: files}))",
    ],
    ids=["dropped", "pasted"],
)
def test_a_picture_is_talked_about_in_turns(page, site, janus, hand_over) -> None:
    open_page(page, site[0])
    file = picture_file()
    files = page.evaluate_handle(
        """encoded => {
            const bytes = Uint8Array.from(atob(encoded), one => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "red.png", {type: "image/png"}));
            return transfer;
        }""",
        base64.b64encode(file["buffer"]).decode(),
    )
    files.evaluate(hand_over)
    page.locator("#looked-image").wait_for()
    assert page.locator("#looked-name").inner_text() in ("red.png", "A pasted picture")

    ask(page, "what is it?")
    with Image.open(io.BytesIO(file["buffer"])) as opened:
        picture = opened.convert("RGB")
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "what is it?"}]
    turns = [{"role": "user", "content": parts}]
    first = janus.chat(turns, max_new_tokens=TOKENS).text
    assert replied(page).split() == first.split() != []
    ask(page, "and now?")
    page.locator(".turn").nth(3).wait_for()
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "and now?"}]
    assert replied(page).split() == janus.chat(turns, max_new_tokens=TOKENS).text.split()

    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    assert page.locator("#looked-image").is_visible()


def test_a_drawing_can_be_talked_about(page, site) -> None:
    open_page(page, site[0])
    draw(page, "a dog")
    page.get_by_role("button", name="Talk about it: a dog").click()
    page.locator("#looked-image").wait_for()
    assert page.locator("#looked-name").inner_text() == "a dog"
    ask(page, "what is it?")
    assert replied(page)


def test_errors_are_told_in_words(page, site) -> None:
    open_page(page, site[0])
    draw(page, "x" * 4000)
    page.locator("#draw-note.error").wait_for()
    assert "horten the prompt" in page.locator("#draw-note").inner_text()
    page.get_by_label("What to avoid").evaluate("field => { field.value = 'dogs'; }")
    page.get_by_label("Guidance", exact=True).fill("1")
    draw(page, "a car")
    page.locator("#draw-note", has_text="guidance").wait_for()
    assert page.locator("#stage-empty").is_visible()
    page.get_by_label("What to avoid").evaluate("field => { field.value = ''; }")
    draw(page, "a car")
    page.locator("#caption").wait_for()
    draw(page, "x" * 4000)
    page.locator("#draw-note.error").wait_for()
    page.locator("#caption-text", has_text="a car").wait_for()  # it is still there
    assert page.get_by_role("button", name="Draw", exact=True).is_visible()

    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("#picture-file").set_input_files(broken)
    page.locator("#talk-note", has_text="no picture that your browser can open").wait_for()


def test_a_server_that_has_gone_is_told_of(page, janus) -> None:
    with serving(janus) as (url, _):
        page.route("**/v1/models", lambda route: route.abort(), times=1)
        open_page(page, url)
        page.locator("#draw-note", has_text="cannot be reached").wait_for()
        draw(page, "a car")  # it is there again
        page.locator("#caption").wait_for()
    draw(page, "a car")
    page.locator("#draw-note", has_text="cannot be reached").wait_for()
    ask(page, "hello?")
    page.locator("#talk-note", has_text="cannot be reached").wait_for()
    assert page.get_by_label("Ask", exact=True).input_value() == "hello?"  # to be sent again


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stopping_frees_the_slots(page, site, slow, way) -> None:
    url, room = site
    open_page(page, url)
    draw(page, "a red car")
    page.locator("#grid img").wait_for()
    assert room.thread.engine.num_running == 1
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    page.locator("#draw-note", has_text="Stopped.").wait_for()
    assert page.locator("#history").is_hidden()
    until(lambda: not room.thread.engine.has_work)
    page.get_by_role("button", name="Draw", exact=True).wait_for()


def test_a_reply_can_be_stopped(page, site, slow) -> None:
    url, room = site
    open_page(page, url)
    ask(page, "tell me")
    until(lambda: room.thread.engine.num_running == 1)
    page.get_by_role("button", name="Stop").click()
    until(lambda: not room.thread.engine.has_work)
    page.get_by_role("button", name="Ask", exact=True).wait_for()


def test_the_keyboard_alone_does_it_all(page, site) -> None:
    open_page(page, site[0])

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "(({ariaLabel, labels, textContent}) => "
                "ariaLabel || labels?.[0]?.textContent.trim() || textContent)"
                "(document.activeElement)"
            )
            if focused.startswith(name):
                ring = page.evaluate("document.activeElement.matches(':focus-visible')")
                assert ring
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    tab_to("Describe a picture")
    page.keyboard.type("a cat")
    tab_to("1")
    page.keyboard.press("ArrowRight")  # two of them
    tab_to("Seed")
    page.keyboard.type("8")
    page.keyboard.press("Enter")
    page.locator("#caption").wait_for()
    assert page.locator("#grid img").count() == 2
    tab_to("Talk about it: a cat, picture 2 of 2")
    page.keyboard.press("Enter")
    page.locator("#looked-image").wait_for()
    page.keyboard.type("what is it?")  # the field has the focus
    page.keyboard.press("Enter")
    assert replied(page)
    tab_to("Show again: a cat, seed 8")
    page.keyboard.press("Space")
    page.locator("#caption").wait_for()


def test_a_phone_scrolls_one_way_alone(new_context, site) -> None:
    phone = new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark"
    ).new_page()
    open_page(phone, site[0])
    phone.get_by_text("Settings").tap()
    phone.get_by_text("More", exact=True).tap()
    draw(phone, "a-long-word-" * 6)
    phone.locator("#caption").wait_for()
    phone.locator("#picture-file").set_input_files(picture_file())
    phone.locator("#looked-image").wait_for()
    ask(phone, "w" * 90)
    assert replied(phone)
    width = phone.evaluate("document.documentElement.scrollWidth")
    assert width == 360
    small = phone.locator("button:visible, a:visible, summary:visible").evaluate_all(
        "all => all.filter(one => one.getBoundingClientRect().height < 20).map(one => one.id)"
    )
    assert small == []


def test_a_key_is_asked_for_and_kept_for_the_tab(new_context, janus) -> None:
    with serving(janus, api_keys=("secret",)) as (url, _):
        context: BrowserContext = new_context()
        page = context.new_page()
        open_page(page, url)
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#key-note", has_text="not one of the server's").wait_for()
        field.fill("secret")
        page.keyboard.press("Enter")
        page.locator("#model-name", has_text="tiny").wait_for()
        draw(page, "a car")
        page.locator("#caption").wait_for()
        page.reload()
        page.locator("#model-name", has_text="tiny").wait_for()
        page.get_by_role("button", name="Key").click()
        page.get_by_role("button", name="Forget the key").click()
        page.locator("#key-dialog[open]").wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_nothing_is_asked_of_another_machine(page, site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, site[0])
    draw(page, "a car")
    page.locator("#caption").wait_for()
    assert {urlsplit(url).hostname for url in asked if url.startswith("http")} == {"127.0.0.1"}
    assert any(url.endswith("/v1/images/generations") for url in asked)
    assert page.evaluate("document.cookie") == ""
    assert page.context.cookies() == []
