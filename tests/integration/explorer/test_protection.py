"""Pages of other sites reach nothing, and the page itself reaches only its own host."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from explorer_page import explorer

import polyhead_explorer

PAGE = Path(polyhead_explorer.__file__).parent / "page"
MODELS = ("GET", "/api/models")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:8400", "[::1]:8400"])
def test_names_of_this_machine_are_served(page, host):
    assert page.request(*MODELS, headers={"Host": host})[0] == 200


@pytest.mark.parametrize("host", ["evil.example:8400", "localhost.evil.example", "", "[::2]"])
@pytest.mark.parametrize("path", ["/", "/app.js", "/api/models"])
def test_other_names_are_refused(page, host, path):
    status, _, body = page.request("GET", path, headers={"Host": host})
    assert status == 403
    assert b"--allow-host" in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_other_sites_may_link_to_the_page_but_not_use_it(page, headers, status):
    assert page.request("GET", "/", headers=headers)[0] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_forms_of_other_sites_are_not_read(page, kind):
    body = json.dumps({"model": "bert", "text": "Tom"})
    status, _, answer = page.request("POST", "/api/reading", body, {"Content-Type": kind})
    assert status == 400
    assert b"expected application/json" in answer


@pytest.mark.parametrize("body", ["[", "[]", "7", '"text"', "[" * 100_000])
def test_bodies_that_are_no_objects_are_refused(page, body):
    headers = {"Content-Type": "application/json"}
    status, _, answer = page.request("POST", "/api/reading", body, headers)
    assert status == 400
    assert json.loads(answer)["error"]["message"] == "expected a JSON object"


def test_long_bodies_are_refused(page):
    body = json.dumps({"model": "bert", "text": "a" * (5 << 20)})
    status, _, answer = page.request(
        "POST", "/api/reading", body, {"Content-Type": "application/json"}
    )
    assert status == 400
    assert b"too long" in answer


def test_long_texts_of_the_built_in_block_are_refused(page):
    body = json.dumps({"model": "river-bank", "version": None, "text": "river " * 2000})
    status, _, answer = page.request(
        "POST", "/api/reading", body, {"Content-Type": "application/json"}
    )
    assert status == 400
    assert b"expected at most 10000" in answer


@pytest.mark.parametrize("path", ["/", "/app.js", "/styles/page.css", "/api/models", "/missing"])
def test_every_response_forbids_what_the_page_does_not_need(page, path):
    _, headers, _ = page.request("GET", path)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/../cli.py", "/%2e%2e/cli.py", "/..%2fcli.py", "//etc/passwd"])
def test_only_the_pages_folder_is_served(page, path):
    assert page.request("GET", path)[0] == 404


def test_the_page_takes_one_script_and_one_style_sheet(page):
    _, headers, body = page.request("GET", "/")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(rb'src="([^"]+\.js)"', body) == [b"page.js"]
    assert b"modulepreload" not in body
    status, headers, script = page.request("GET", "/page.js")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert b"new App().start()" in script
    assert re.findall(rb'href="([^"]+\.css)"', body) == [b"page.css"]
    status, headers, styles = page.request("GET", "/page.css")
    assert (status, headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert all(file.read_bytes() in styles for file in PAGE.rglob("*.css"))


def test_the_page_names_no_other_host():
    for file in PAGE.rglob("*.*"):
        text = file.read_text()
        others = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"(?m)//+ .*$", "", text))
        assert set(others) <= {"http://www.w3.org"}, file  # the name space of SVG
        assert "innerHTML" not in text


def test_the_page_has_no_script_or_style_of_its_own_and_preloads_each_module():
    text = (PAGE / "index.html").read_text()
    assert re.findall(r"<script[^>]*>[^<]", text) == []
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)
    modules = {file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*.js")} - {"app.js"}
    assert set(re.findall(r'rel="modulepreload" href="([^"]+)"', text)) == modules


def test_a_name_can_be_allowed(server):
    with explorer(server.target, ["explorer.example.org"]) as page:
        assert page.request(*MODELS, headers={"Host": "explorer.example.org"})[0] == 200
        assert page.request(*MODELS, headers={"Host": "example.org"})[0] == 403
