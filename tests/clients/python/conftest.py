# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The servers that the Python client's tests share: real ones, by the end-to-end tests' harness."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import DEMO, Server  # noqa: E402
from servers import SecureServer, make_pki  # noqa: E402


def pytest_report_header():
    import grpc

    import google.protobuf
    import lion_serve

    return f"lion_serve from {lion_serve.__file__}, grpc {grpc.__version__}, protobuf {google.protobuf.__version__}"


@pytest.fixture(scope="session")
def server():
    """The demo model, with a known crossover."""
    with Server([f"demo={DEMO / 'model'}"], "--parallel_max_tokens=64", "--max_batch_tokens=4096") as running:
        yield running


@pytest.fixture(scope="session")
def small():
    """The same under tight limits: 8 inputs and 200 tokens a call, 64 tokens a sequence, 200 waiting."""
    with Server([f"demo={DEMO / 'model'}"], "--parallel_max_tokens=64", "--max_sequence_tokens=64", "--max_inputs=8", "--max_queue_tokens=200",
                "--max_batch_tokens=256") as running:
        yield running


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def locked(pki):
    """Behind TLS, with the API key "sesame"."""
    with SecureServer.with_keys(pki) as running:
        yield running


@pytest.fixture(scope="session")
def mutual(pki):
    """Behind mutual TLS."""
    with SecureServer.with_certificates(pki) as running:
        yield running
