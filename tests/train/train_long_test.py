# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tools/train_long in miniature, from manual pages to a model that serves: a teacher of random weights, few pages, few steps."""

import gzip
import json
import lzma
import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / folder) for folder in ("tools", "tools/train", "bench", "examples/late-chunking")]

import lion  # noqa: E402
from manuals import read_manuals  # noqa: E402
from programs import Client, Server  # noqa: E402

DEMO, BIN = ROOT / "demo/model", ROOT / "build/release/bin"

WORDS = "copies moves files exit status error option prints returns memory process signal device kernel network lion".split()


def run(*command):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_pages(folder, number):
    draw = random.Random(1)
    (folder / "man1").mkdir(parents=True)
    for i in range(number):
        name = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        parts = [f'.TH {name} 1\n.SH NAME\n{name} \\- {" ".join(draw.choices(WORDS, k=4))}']
        for section in ("DESCRIPTION", "EXIT STATUS", "FILES"):
            parts.append(f".SH {section}\n" + " ".join(draw.choices(WORDS, k=140)) + ".")
        (folder / f"man1/{name}.1.gz").write_bytes(gzip.compress("\n".join(parts).encode()))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_long")
    write_pages(folder / "man", 120)
    print(run(ROOT / "tools/train_long/prepare_pages.py", f"--manuals={folder / 'man'}", f"--work={folder}", "--no_teacher", "--min_bytes=500"))
    teacher = folder / "teacher"
    torch.manual_seed(1)
    config = BertConfig(vocab_size=16384, hidden_size=384, num_hidden_layers=1, num_attention_heads=6, intermediate_size=384)
    BertModel(config, add_pooling_layer=False).save_pretrained(teacher)
    (teacher / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    shutil.copy(DEMO / "tokenizer.json", teacher)
    return folder


def test_no_family_is_on_two_sides(work):
    with lzma.open(work / "pages.jsonl.xz", "rt") as f:
        names = {split: [] for split in ("train", "dev")}
        for record in map(json.loads, f):
            names[record["split"]].append(record["name"])
            assert all(record["text"].encode()[start:end].decode().startswith(title) for title, start, end in record["sections"])
    heldout = [p.name.split(".")[0] for p in (work / "heldout/man1").iterdir()]
    assert heldout and names["dev"] and len(names["train"]) > 80
    assert len({*heldout, *names["dev"], *names["train"]}) == len(heldout) + len(names["dev"]) + len(names["train"])


def test_it_trains_goes_on_and_serves(work):
    flags = (f"--work={work}", f"--out={work / 'model'}", f"--checkpoint={work / 'state'}", "--batch_tokens=2048", "--taught=16", "--alone=8", "--limit=6")
    first = run(ROOT / "tools/train_long/train.py", *flags, "--steps=1")
    assert "step 1 " in first and "dev recall@10 windows" in first and "memory in tokens" in first
    again = run(ROOT / "tools/train_long/train.py", *flags, "--steps=2")
    assert "goes on at step 1" in again and "step 2 " in again
    page = next(p for p in read_manuals(work / "heldout", 500, 60_000))
    ids = lion.Tokenizer.from_file(str(work / "model/tokenizer.json")).encode(page.text).ids
    before, after = (lion.read_model(directory)[0] for directory in (DEMO, work / "model"))
    vectors = [m(*lion.pad([ids]))[0].detach().numpy()[0] for m in (before, after)]
    assert 1e-5 < np.abs(vectors[0] - vectors[1]).max() < 0.2
    with Server(BIN / "lion-server", work / "model", "--device=cpu", "--dtype=float32") as server:
        assert np.abs(np.array(Client(BIN / "lion-client", server).vector(ids)) - vectors[1]).max() < 1e-3
