# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The examples of client/LANGUAGE, built by their ecosystem's own tools, and the servers that they call.

Each is built under build/clients/LANGUAGE, from a copy of itself beside a copy of proto/, as in the tree: nothing that a
build leaves behind lands among the sources.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import Server  # noqa: E402
from servers import MODEL, QUICK, SecureServer, make_pki  # noqa: E402

# Language: the commands that build it, the one that runs it, what a server's address becomes.
LANGUAGES = {
    "go": ([["go", "generate"], ["go", "vet"], ["go", "build"]], ["./lion-example"], "{}", "{}"),
    "rust": ([["cargo", "build", "--quiet", "--locked"]], ["target/debug/lion-example"], "http://{}", "https://{}"),
    "node": ([["npm", "ci", "--silent", "--ignore-scripts"]], ["node", "main.js"], "{}", "{}"),
    "java": ([["mvn", "--quiet", "--batch-mode", "package"]], ["java", "-Dstdout.encoding=UTF-8", "-cp", "target/classes:target/lib/*", "LionExample"],
             "{}", "{}"),
}


@dataclasses.dataclass
class Run:
    code: int
    out: list  # lines
    err: str


class Example:
    """A built example; call it as a person would."""

    def __init__(self, language):
        builds, self._command, self._plain, self._tls = LANGUAGES[language]
        top = ROOT / "build/clients" / language
        self._folder = top / "client" / language
        shutil.copytree(ROOT / "proto", top / "proto", dirs_exist_ok=True)
        shutil.copytree(ROOT / "client" / language, self._folder, dirs_exist_ok=True)
        for build in builds:
            run = subprocess.run(build, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert run.returncode == 0, f"{' '.join(build)}:\n{run.stdout}{run.stderr}"

    def __call__(self, target, *args, tls_ca=None, api_key=None):
        environment = {k: v for k, v in os.environ.items() if k != "LION_API_KEY"} | ({"LION_API_KEY": api_key} if api_key else {})
        flags = ["--target", (self._tls if tls_ca else self._plain).format(target)] + (["--tls_ca", str(tls_ca)] if tls_ca else [])
        run = subprocess.run([*self._command, *flags, *args], cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return Run(run.returncode, run.stdout.splitlines(), run.stderr)


@pytest.fixture(scope="session", params=list(LANGUAGES))
def example(request):
    return Example(request.param)


@pytest.fixture(scope="session")
def server():
    """The demo model; 64 tokens a sequence at most."""
    with Server([MODEL], *QUICK, "--max_sequence_tokens=64") as running:
        yield running


@pytest.fixture(scope="session")
def locked(tmp_path_factory):
    """Behind TLS, with the API key "sesame"."""
    with SecureServer.with_keys(make_pki(tmp_path_factory.mktemp("pki"))) as running:
        yield running
