"""The web page's files: free of keys, guarded by their headers, and all in the package."""

from __future__ import annotations

import re

import pytest

from openjanus.serve.page import is_page_path, page_files


def test_the_page_and_all_that_it_names_are_answered_with_headers_that_guard_it(serve):
    with serve(api_keys=("secret",)) as server:
        html = server.get("/")
        assert html.status_code == 200 and html.headers["content-type"].startswith("text/html")
        policy = html.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', html.text))
        assert {"page/main.js", "page/style.css", "page/icon.svg"} <= named
        while named:
            path = named.pop()
            file = server.get(f"/{path}")
            assert file.status_code == 200, path
            assert file.headers["x-content-type-options"] == "nosniff"
            assert file.headers["content-security-policy"] == policy
            named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', file.text)}
        assert server.get("/v1/models").status_code == 401  # the page's files alone are free
        assert server.get("/page/none.js").status_code == 404


def test_nothing_in_the_page_comes_from_elsewhere_or_is_inline():
    for file in page_files():
        text = file.body.decode()
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file.path
        if file.path == "/":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_a_file_that_a_browser_has_is_not_sent_again(server):
    first = server.get("/page/style.css")
    again = server.get("/page/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.content != b""


def test_without_the_page_there_is_none(serve):
    with serve(page=False) as server:
        assert server.get("/").status_code == 404
        assert server.get("/page/main.js").status_code == 404
        assert server.get("/v1/models").status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/pages", "/page"])
def test_other_paths_are_none_of_the_page(path):
    assert not is_page_path(path)


def test_a_model_says_how_it_draws(server, janus):
    drawing = server.get("/v1/models/tiny").json()["drawing"]
    assert drawing == {
        "size": "32x32",
        "max_partial_images": 3,
        "guidance_scale": janus.config.drawing.guidance_scale,
        "temperature": janus.config.drawing.temperature,
        "max_n": 10,
    }
