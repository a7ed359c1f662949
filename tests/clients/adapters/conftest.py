# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The adapters among the libraries that they are for, against a real server with the demo model."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import DEMO, Server  # noqa: E402
from lion_serve import Client  # noqa: E402


@pytest.fixture(scope="session")
def client():
    with Server([f"demo={DEMO / 'model'}"], "--parallel_max_tokens=64", "--max_batch_tokens=4096") as server, Client(server.grpc) as made:
        yield made


@pytest.fixture(scope="session")
def packages():
    """What people search for: descriptions of software, and what each is."""
    return {
        "a fast and small HTTP server": "web",
        "a compiler for the C language": "compiler",
        "play chess against the computer": "chess",
        "a library that draws vector graphics": "graphics",
        "reads and writes mail in a terminal": "mail",
    }
