# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Finds tools.py and the end-to-end harness, and says which program is missing before any test runs."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from tools import CLIENT, ENVOY, PROMETHEUS  # noqa: E402


def pytest_configure():
    for program, remedy in ((CLIENT, "./dev build"), (PROMETHEUS, "./dev setup deploy"), (ENVOY, "./dev setup deploy")):
        if not program.exists():
            pytest.exit(f"{program} is missing: {remedy}", returncode=2)
