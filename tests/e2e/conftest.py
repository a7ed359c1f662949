# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The servers that tests share. Each runs once a session; a test that harms or ends its server starts its own."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import models  # noqa: E402
from harness import BINARY, ORACLE, Oracle, Server  # noqa: E402


def pytest_configure():
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: ./dev build", returncode=2)


@pytest.fixture(scope="session")
def oracles():
    return {name: Oracle(name) for name in Oracle.NAMES}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Directories made for this session, by the name they are served under."""
    root = tmp_path_factory.mktemp("models")
    float16, bfloat16 = models.stored_in(root / "float16", "F16"), models.stored_in(root / "bfloat16", "BF16")
    return {
        "text": models.with_tokenizer(root / "text"),
        "headless": models.without_head(root / "headless"),
        "sharded": models.sharded(root / "sharded"),
        "F16": float16[0], "F16-as-F32": float16[1],
        "BF16": bfloat16[0], "BF16-as-F32": bfloat16[1],
        "sigmoid": models.edit_config(models.copy_of(models.BASE, root / "sigmoid"), problem_type="multi_label_classification"),
    }


@pytest.fixture(scope="session")
def server(made):
    """Every oracle model and those of `made`, in fp32, with a known crossover; the first is text-lion-s-ln."""
    first = ["text-lion-s-ln", "text-lion-lit-ln", "text-lion-d-noln", "text-lion-s-noln"]
    with Server([ORACLE / name for name in first] + [f"{name}={path}" for name, path in made.items()],
                "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=4096") as running:
        yield running


@pytest.fixture(scope="session")
def small(made):
    """Two models under tight limits: 64 tokens a sequence, 4 inputs, 1 MiB a message, 200 tokens waiting."""
    with Server([f"text={made['text']}", f"ids={ORACLE / 'text-lion-s-ln'}", f"headless={made['headless']}"], "--dtype=float32",
                "--parallel_max_tokens=64", "--max_sequence_tokens=64", "--max_inputs=4", "--max_message_mib=1", "--max_queue_tokens=200",
                "--max_batch_tokens=256") as running:
        yield running
