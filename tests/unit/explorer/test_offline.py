"""The page as one script."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from polyhead_explorer.offline.answers import MARK
from polyhead_explorer.offline.bundle import bundle_modules
from polyhead_explorer.offline.shell import page_shell


def write(folder, **modules):
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text)


def test_modules_follow_what_they_import(tmp_path):
    write(
        tmp_path,
        a='import { two } from "./b.js";\nimport { one } from "./c.js";\none(two);\n',
        b='import { one } from "./c.js";\nexport const two = one;\n',
        c="export function one() {}\nexport class Other {}\n",
    )
    script = bundle_modules(tmp_path, "a.js")
    places = [script.index(f'modules["{name}.js"] = ') for name in ("c", "b", "a")]
    assert places == sorted(places)
    assert 'modules["c.js"] = { one, Other };' in script
    assert 'const { two } = modules["b.js"];' in script
    assert not re.search(r"^(import|export)", script, re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        'import all from "./b.js";\n',
        'import * as all from "./b.js";\n',
        'import { a as b } from "./b.js";\n',
        'import "./b.js";\n',
        'const b = await import("./b.js");\n',
        "export default 1;\n",
        "export { a };\n",
        'export * from "./b.js";\n',
        'import { a } from "elsewhere";\n',
    ],
)
def test_what_cannot_be_joined_is_named(tmp_path, text):
    write(tmp_path, a=text, b="export const a = 1;\n")
    with pytest.raises(ValueError, match=r"^a\.js: "):
        bundle_modules(tmp_path, "a.js")


def test_circles_are_named(tmp_path):
    write(tmp_path, a='import { b } from "./b.js";\n', b='import { a } from "./a.js";\n')
    with pytest.raises(ValueError, match=r"a\.js imports itself, by b\.js"):
        bundle_modules(tmp_path, "a.js")


def test_the_policy_allows_the_pages_own_script_and_style_only():
    shell = page_shell()
    [script] = re.findall(r"<script[^>]*>(.*?)</script>", shell, re.DOTALL)
    [style] = re.findall(r"<style>(.*?)</style>", shell, re.DOTALL)
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in shell
    assert shell.index(MARK) < shell.index("<script")
    assert "<!--" not in script
    assert not re.search(r'(?:src|href)="(?!data:|#)', shell)
