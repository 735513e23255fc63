"""The page in states that a server in good order never brings: answers are made up here."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from openjanus.serve.page import page_files

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

HOME = "http://127.0.0.1/"
DRAWING = {"size": "8x8", "max_partial_images": 3, "guidance_scale": 2.25, "temperature": 0.33}
CARDS = [{"id": "tiny", "drawing": DRAWING | {"max_n": 10}}]
BLOCKED = """Object.defineProperty(window, "sessionStorage", {
    get() { throw new DOMException("denied", "SecurityError"); } });"""
ADDRESSES = """window.live = new Set();
    const { createObjectURL, revokeObjectURL } = URL;
    URL.createObjectURL = (blob) => {
        const address = createObjectURL(blob);
        live.add(address);
        return address;
    };
    URL.revokeObjectURL = (address) => { live.delete(address); revokeObjectURL(address); };"""
SLOW_FIRST = """const open = window.createImageBitmap;
    let calls = 0;
    window.createImageBitmap = async (file) => {
        if (calls++ === 0) await new Promise((resolve) => { window.goOn = resolve; });
        return open(file);
    };"""


class FakeServer:
    """Answers to a page: the package's own files, and what a test says.

    A route that is None is left without an answer.
    """

    def __init__(self) -> None:
        self.files = {file.path: file for file in page_files()}
        self.routes: dict[str, dict[str, Any] | None] = {
            "/v1/models": {"json": {"data": CARDS}},
            "/v1/images/generations": drawn((0, True)),
            "/v1/chat/completions": said("a car", is_whole=True),
        }
        self.bodies: list[dict[str, Any]] = []

    def answer(self, route: Route) -> None:
        path = "/" + route.request.url.removeprefix(HOME)
        if path in self.files:
            file = self.files[path]
            route.fulfill(body=file.body, headers=file.headers)
            return
        if route.request.method == "POST":
            self.bodies.append(json.loads(route.request.post_data or ""))
        given = self.routes[path]
        if given is not None:
            route.fulfill(**given)


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def events(*bodies: dict[str, Any]) -> dict[str, Any]:
    lines = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies)
    return {"body": lines, "content_type": "text/event-stream"}


def drawn(*states: tuple[int, bool | int]) -> dict[str, Any]:
    """Events: of which picture, and whether it is whole or which state of it that is."""
    whole = {"type": "image_generation.completed"}
    common = {"b64_json": base64.b64encode(png()).decode(), "seed": 7}
    return events(
        *(
            {"image_index": index}
            | common
            | (whole if state is True else {"type": "partial", "partial_image_index": state})
            for index, state in states
        )
    )


def said(text: str, *, is_whole: bool) -> dict[str, Any]:
    last = [{"choices": [{"delta": {}, "finish_reason": "stop"}]}] if is_whole else []
    return events({"choices": [{"delta": {"content": text}}]}, *last)


def refusal(status: int, message: str, code: str, **headers: str) -> dict[str, Any]:
    error = {"message": message, "code": code}
    return {"status": status, "json": {"error": error}, "headers": headers}


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def open_page(
    new_context: Callable[..., BrowserContext], server: FakeServer
) -> Callable[..., Page]:
    """``open_page(script, viewport=...)``: the page, after a script of the test's own."""

    def opened(script: str = "", **options: Any) -> Page:
        context = new_context(**({"viewport": {"width": 1200, "height": 850}} | options))
        context.route("**/*", server.answer)
        page = context.new_page()
        page.add_init_script(script)
        page.goto(HOME)
        page.locator("html[data-ready]").wait_for()
        return page

    return opened


def draw(page: Page, prompt: str = "a car") -> None:
    page.fill("#prompt", prompt)
    page.click("#draw-go")


def told(page: Page, note: str = "#draw-note") -> str:
    page.locator(f"{note}:not([hidden])").wait_for()
    return page.inner_text(note)


@pytest.mark.parametrize("face", ["draw", "talk"])
def test_a_double_click_begins_and_does_not_stop(open_page, server, face) -> None:
    server.routes |= {"/v1/images/generations": None, "/v1/chat/completions": None}
    page = open_page()
    page.fill("#prompt" if face == "draw" else "#question", "a car")
    page.dblclick(f"#{face}-go")
    page.wait_for_timeout(200)
    assert page.is_visible(f"#{face}-stop") and page.is_hidden(f"#{face}-note")
    assert len(server.bodies) == 1
    page.wait_for_timeout(600)  # the next one is a click of its own
    page.click(f"#{face}-stop")
    assert told(page, f"#{face}-note") == "Stopped."


def test_a_double_click_does_not_clear_what_was_drawn(open_page) -> None:
    page = open_page()
    draw(page)
    page.locator("#strip li").wait_for()
    page.dblclick("#history-clear")
    assert page.inner_text("#history-clear") == "Really clear all?"
    assert page.locator("#strip li").count() == 1


def test_enter_that_is_held_sends_once(open_page, server) -> None:
    server.routes["/v1/images/generations"] = None
    page = open_page()
    page.fill("#prompt", "a car")
    for _ in range(3):
        page.keyboard.down("Enter")
    assert page.is_visible("#draw-stop")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("seed", ["-5", "1e3", "9007199254740993"])
def test_a_seed_that_would_be_another_is_refused_where_it_is(open_page, server, seed) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    page.locator("#seed").evaluate("(field, seed) => { field.value = seed; }", seed)  # closed
    draw(page)
    assert f"not “{seed}”" in told(page)
    assert page.evaluate("document.activeElement.id") == "seed"
    assert page.get_attribute("#seed", "aria-invalid") == "true"
    assert server.bodies == []
    page.fill("#seed", "9007199254740991")
    assert page.get_attribute("#seed", "aria-invalid") is None
    page.click("#draw-go")
    page.locator("#caption").wait_for()
    assert server.bodies[0]["seed"] == 2**53 - 1


def test_a_models_own_numbers_are_sent_as_they_are(open_page, server) -> None:
    page = open_page()
    draw(page)
    page.locator("#caption").wait_for()
    assert (server.bodies[0]["guidance_scale"], server.bodies[0]["temperature"]) == (2.25, 0.33)
    assert page.inner_text("#guidance-value") == "2.25"
    page.fill("#guidance", "3")
    page.click("#draw-go")
    page.locator("#strip li").nth(1).wait_for()
    assert server.bodies[1]["guidance_scale"] == 3


def test_again_means_as_many(open_page, server) -> None:
    server.routes["/v1/images/generations"] = drawn((0, True), (1, True))
    page = open_page()
    page.check("input[name=count][value='2']", force=True)
    draw(page)
    page.locator("#caption").wait_for()
    page.check("input[name=count][value='1']", force=True)
    page.click("#again")
    page.locator("#strip li").nth(1).wait_for()
    assert [body["n"] for body in server.bodies] == [2, 2]


def test_what_is_whole_of_a_broken_drawing_can_be_kept(open_page, server) -> None:
    server.routes["/v1/images/generations"] = drawn((0, 0), (1, 0), (0, True), (1, 1))
    page = open_page()
    page.check("input[name=count][value='2']", force=True)
    draw(page)
    assert "before the drawing was whole" in told(page)
    assert page.get_by_role("button", name="Save: a car, picture 1 of 2").is_visible()
    assert page.locator("figcaption").count() == 1
    assert "seed 7" in page.inner_text("#caption-text")
    server.routes["/v1/images/generations"] = refusal(503, "full", "overloaded")
    page.click("#draw-go")
    assert told(page) == "Full. Try again in a moment."
    assert page.locator("figcaption").count() == 1  # as before
    assert page.locator(".frame.growing").count() == 0


def test_a_reply_that_ends_half_way_is_not_taken_for_whole(open_page, server) -> None:
    server.routes["/v1/chat/completions"] = said("It is a", is_whole=False)
    page = open_page()
    page.fill("#question", "what?")
    page.keyboard.press("Enter")
    assert "before the reply was whole" in told(page, "#talk-note")
    assert page.locator(".turn.assistant.stopped").inner_text().startswith("It is a")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            refusal(429, "this key may send 5 a minute: wait", "x", **{"retry-after": "7"}),
            "This key may send 5 a minute: wait. Try again in 7 s.",
        ),
        (
            refusal(404, "no model 'tiny' here", "model_not_found"),
            "No model 'tiny' here. Reload this page.",
        ),
        ({"status": 502, "body": "<html>"}, "The server answered with status 502."),
    ],
    ids=["429", "404", "502"],
)
def test_refusals_are_told(open_page, server, answer, words) -> None:
    server.routes["/v1/images/generations"] = answer
    page = open_page()
    draw(page)
    assert told(page) == words
    assert page.is_visible("#stage-empty")


def test_an_answer_of_something_else_is_told_and_asked_for_again(open_page, server) -> None:
    server.routes["/v1/models"] = {"body": "<html>Sign in!</html>", "content_type": "text/html"}
    page = open_page()
    assert "no server of openjanus" in told(page)
    assert page.is_hidden("#guidance")  # which nobody knows
    page.fill("#question", "what?")
    page.keyboard.press("Enter")
    assert "no server of openjanus" in told(page, "#talk-note")  # where the person is
    assert page.input_value("#question") == "what?"
    server.routes["/v1/models"] = {"json": {"data": CARDS}}
    draw(page)
    page.locator("#caption").wait_for()
    assert page.is_visible("#guidance")


@pytest.mark.parametrize("script", ["", BLOCKED], ids=["stored", "blocked"])
def test_a_key_is_plain_letters_and_serves_without_a_store(open_page, server, script) -> None:
    server.routes["/v1/models"] = refusal(401, "no valid key", "invalid_api_key")
    page = open_page(script)
    page.fill("#key", "sécret")  # no header can hold it
    page.keyboard.press("Enter")
    assert "plain letters" in told(page, "#key-note")
    server.routes["/v1/models"] = {"json": {"data": CARDS}}
    page.fill("#key", "secret")
    with page.expect_request("**/v1/models") as found:
        page.keyboard.press("Enter")
    assert found.value.headers["authorization"] == "Bearer secret"
    page.locator("#key-dialog").wait_for(state="hidden")


def test_of_two_pictures_the_later_is_talked_about(open_page) -> None:
    page = open_page(SLOW_FIRST)
    for name in ("first", "second"):
        file = {"name": name, "mimeType": "image/png", "buffer": png()}
        page.locator("#picture-file").set_input_files(file)
    page.locator("#looked-name", has_text="second").wait_for()
    page.evaluate("goOn()")
    page.wait_for_timeout(200)
    assert page.inner_text("#looked-name") == "second"


def test_what_was_begun_to_be_written_stays(open_page) -> None:
    page = open_page()
    page.locator("#picture-file").set_input_files(
        {"name": "a", "mimeType": "image/png", "buffer": png()}
    )
    page.locator("#looked-image").wait_for()
    page.fill("#question", "is it b")
    page.get_by_role("button", name="What colour is it?").click()
    page.locator("#log[aria-busy=false] .turn.assistant").wait_for()
    assert page.input_value("#question") == "is it b"


def test_pictures_on_their_way_are_let_go(open_page, server) -> None:
    states = [(index, state) for state in (0, 1, 2, True) for index in (0, 1)]
    server.routes["/v1/images/generations"] = drawn(*states)
    page = open_page(ADDRESSES)
    page.check("input[name=count][value='2']", force=True)
    for count in (1, 2):
        draw(page)
        page.locator("#strip li").nth(count - 1).wait_for()
        assert page.evaluate("live.size") == 2 + count  # on the stage, and one a drawing before


def test_the_focus_stays_where_the_button_was(open_page, server) -> None:
    server.routes["/v1/images/generations"] = None
    page = open_page()
    page.fill("#prompt", "a car")
    page.focus("#draw-go")
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.id") == "draw-stop"
    page.keyboard.press("Escape")
    page.locator("#draw-go").wait_for()
    assert page.evaluate("document.activeElement.id") == "draw-go"


def test_a_browser_without_room_says_so(open_page) -> None:
    page = open_page()
    developer = page.context.new_cdp_session(page)
    developer.send("Storage.overrideQuotaForOrigin", {"origin": HOME, "quotaSize": 1})
    draw(page)
    assert "has no room to keep this drawing" in told(page)
    page.locator("#caption").wait_for()


def test_a_history_that_is_cleared_from_without_goes_on_in_the_page(open_page) -> None:
    page = open_page()
    draw(page)
    page.locator("#strip li").wait_for()
    developer = page.context.new_cdp_session(page)
    developer.send("Storage.clearDataForOrigin", {"origin": HOME, "storageTypes": "all"})
    page.wait_for_timeout(200)
    draw(page, "a dog")
    page.locator("#caption-text", has_text="a dog").wait_for()
    page.locator("#history-where", has_text="until this page is closed").wait_for()
    assert page.locator("#strip li").count() == 1
    assert page.is_hidden("#draw-note")
