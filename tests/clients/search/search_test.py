# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""examples/semantic-search with the real server, PostgreSQL and browser: it indexes, goes on where it was stopped, finds, shows."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import DEMO, HANG_SECONDS, Server  # noqa: E402

SEARCH = ROOT / "examples/semantic-search/search.py"
DATA = ROOT / "build/clients/search/data"


class Search:
    """The program, as a person runs it."""

    def __init__(self, target, data):
        self._base = [sys.executable, "-W", "ignore", str(SEARCH), f"--target={target}", f"--data={data}"]

    def __call__(self, *args, code=0):
        run = subprocess.run([*self._base, *map(str, args)], capture_output=True, text=True)
        assert run.returncode == code, run.stdout + run.stderr
        return run.stdout.splitlines()

    def start(self, *args):
        return subprocess.Popen([*self._base, *map(str, args)], stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def server():
    with Server([f"demo={DEMO / 'model'}"]) as running:
        yield running


@pytest.fixture(scope="module")
def search(server):
    """With the 2,000 held-out packages in its index, put there in two runs."""
    shutil.rmtree(DATA, ignore_errors=True)
    program = Search(server.grpc, DATA / "held_out")
    assert program("index", "--limit", 700)[-1] == "700 embedded, 0 unchanged, 700 in the index"
    assert program("index")[-1] == "1300 embedded, 700 unchanged, 2000 in the index"
    assert program("index")[-1] == "0 embedded, 2000 unchanged, 2000 in the index"
    return program


def test_find(search):
    lines = search("find", "listen to internet radio stations", "-k", 3)
    assert len(lines) == 3 and re.match(r"0\.\d{3}  shortwave ", lines[0])
    assert [line[:5] for line in lines] == sorted((line[:5] for line in lines), reverse=True)


def test_the_questions_are_answered_as_well_as_by_the_teacher(search):
    lines = search("judge")  # exits 1 below 0.9 of the teacher's
    hits, questions, teacher = map(int, re.fullmatch(r"(\d+) of (\d+) among the first ten; .*: (\d+)", lines[-1]).groups())
    assert questions == 20 and hits >= 0.9 * teacher and teacher >= 18


def test_a_text_that_changed_is_embedded_again(server, search, tmp_path):
    rows = [{"name": f"p{i}", "synopsis": f"program number {i}", "description": ""} for i in range(10)]
    file, program = tmp_path / "rows.jsonl", Search(server.grpc, DATA / "changes")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert program("index", "--jsonl", file)[-1] == "10 embedded, 0 unchanged, 10 in the index"
    rows[3]["synopsis"] = "a chess engine"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert program("index", "--jsonl", file)[-1] == "1 embedded, 9 unchanged, 10 in the index"
    assert "p3" in program("find", "play chess", "-k", 1)[0]


def test_what_apt_knows(server):
    program = Search(server.grpc, DATA / "apt")
    assert program("index", "--apt", "--limit", 300)[-1] == "300 embedded, 0 unchanged, 300 in the index"
    assert len(program("find", "a strategy game")) == 10


def test_errors(search, tmp_path):
    unreachable = Search("127.0.0.1:1", tmp_path)
    assert unreachable("find", "x", code=1) == []
    search("find", code=2)


@pytest.fixture(scope="module")
def page(search):
    """The address of the web page."""
    process = search.start("serve", "--listen", "127.0.0.1:0")
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert process.wait(HANG_SECONDS) == 0
        process.stdout.close()


def get(address):
    try:
        with urllib.request.urlopen(address, timeout=HANG_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_pages_answers(page):
    code, answer = get(page + "search?q=scientific+calculator&k=5")
    assert code == 200 and len(answer["found"]) == 5 and "wcalc" in [f["name"] for f in answer["found"]] and answer["milliseconds"] > 0
    for wrong, word in (("search", "q: is empty"), ("search?q=+", "q: is empty"), ("search?q=x&k=0", "k: '0'"), ("search?q=x&k=101", "k: '101'"),
                        ("search?q=x&k=many", "k: 'many'")):
        code, answer = get(page + wrong)
        assert code == 400 and word in answer["error"]
    assert get(page + "other")[0] == 404


def browse(page, *args):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1000", "--virtual-time-budget=15000", *args, page]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS).stdout


def test_the_page_in_a_browser(page):
    dom = browse(page + "?q=align+DNA+sequences+with+a+graphical+program", "--dump-dom")
    names = re.findall(r"<strong>(.*?)</strong>", dom)
    assert len(names) == 10 and names[0] == "clustalx"
    assert re.search(r'<p id="status" role="status">10 packages in [\d.]+ ms</p>', dom)
    picture = ROOT / "build/clients/search/page.png"
    browse(page + "?q=align+DNA+sequences+with+a+graphical+program", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<strong>" not in browse(page, "--dump-dom")  # nothing asked, nothing shown
