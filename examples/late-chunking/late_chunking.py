#!/usr/bin/env python3
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Does it help a passage's vector to know the rest of its document?

Cuts manual pages into passages and embeds them twice: as windows of one pass over the page, and each alone. Then asks for
sections whose words are much the same on every page ("exit status of gzip: compress or expand files") and counts how often
a passage of that section of that page is among the first ten of all.

    ./dev serve long=demo/long_model                       # in another terminal
    python3 examples/late-chunking/late_chunking.py
    python3 examples/late-chunking/late_chunking.py --memory demo/long_model   # how far each head of a model remembers

Of the pages it takes those of families that demo/long_model has not learned from (manuals.py); --learned adds the others.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import struct
import sys
import time

import numpy as np
from lion_serve import Client

from manuals import Manual, read_manuals, split_of

# Sections that many pages have, and that say little of what the page is about.
COMMON = ("EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO", "AUTHOR", "AUTHORS", "BUGS", "OPTIONS", "NOTES", "RETURN VALUE",
          "ERRORS", "DIAGNOSTICS", "CONFORMING TO", "REPORTING BUGS")


class Passages:
    """All passages of all pages: which page each is from, and its bytes there."""

    def __init__(self) -> None:
        self.page: list[int] = []
        self.start: list[int] = []
        self.end: list[int] = []
        self.windows: list[np.ndarray] = []

    def add(self, page: int, spans: np.ndarray, vectors: np.ndarray) -> None:
        self.page += [page] * len(spans)
        self.start += spans[:, 0].tolist()
        self.end += spans[:, 1].tolist()
        self.windows.append(vectors)


def embed(client: Client, manuals: list[Manual], window: int) -> tuple[Passages, dict[str, np.ndarray]]:
    passages, texts, titled = Passages(), [], []
    began = time.monotonic()
    tokens = 0
    for page, manual in enumerate(manuals):
        document = client.embed_document(manual.text, window=window, normalize=True)
        tokens += document.token_count
        real = document.byte_spans[:, 1] > document.byte_spans[:, 0]  # not a window of special tokens alone
        passages.add(page, document.byte_spans[real], document.vectors[real])
        data = manual.text.encode()
        for start, end in document.byte_spans[real]:
            texts.append(data[start:end].decode(errors="ignore"))
            titled.append(f"{manual.name}: {manual.purpose}\n{texts[-1]}")
    one_pass = time.monotonic() - began
    alone = client.embed(texts, normalize=True).vectors
    ways = {
        "windows of one pass": np.concatenate(passages.windows),
        "each passage alone": alone,
        "alone, the page's purpose put before it": client.embed(titled, normalize=True).vectors,
        "sum of window and alone": alone + np.concatenate(passages.windows),
    }
    print(f"{len(manuals)} pages, {tokens:,} tokens, {len(texts):,} passages of {window} tokens; one pass {one_pass:.1f} s")
    return passages, ways


def recall(client: Client, manuals: list[Manual], passages: Passages, ways: dict[str, np.ndarray], k: int) -> None:
    questions, wanted = [], []
    page, start, end = (np.array(a) for a in (passages.page, passages.start, passages.end))
    for number, manual in enumerate(manuals):
        for section in manual.sections:
            if section.title in COMMON:
                middle = (start + end) / 2
                hit = (page == number) & (middle >= section.start) & (middle < section.end)
                if hit.any():
                    questions.append(f"{section.title.lower()} of {manual.name}: {manual.purpose}")
                    wanted.append(hit)
    if not questions:
        print("none of these pages has a section that others have too, as long as half a passage")
        return
    asked = client.embed(questions, normalize=True).vectors
    print(f"{len(questions)} questions; the share with a right passage, and with a passage of the right page, among the first {k}:")
    right = {}
    for way, vectors in ways.items():
        best = np.argsort(-(asked @ vectors.T), axis=1)[:, :k]
        right[way] = np.array([hit[row].any() for hit, row in zip(wanted, best)])
        right_page = np.mean([(page[row] == page[np.argmax(hit)]).any() for hit, row in zip(wanted, best)])
        print(f"  {way:42} {right[way].mean():.3f}  {right_page:.3f}")
    windows, alone = right["windows of one pass"], right["each passage alone"]
    print(f"right by windows and not by passages alone: {(windows & ~alone).sum()} questions; the other way round: {(alone & ~windows).sum()}")


def memory(directory: pathlib.Path) -> None:
    """Of each head, the tokens after which a key has decayed to 1/e at the bias alone: 1 / -log a."""
    tensors = read_tensors(directory / "model.safetensors")
    for name, values in sorted(tensors.items()):
        if name.endswith("attention.self.Wa_i.bias"):
            decay = np.logaddexp(0, values.astype(np.float64))  # -log(1 - sigmoid(b))
        elif name.endswith("attention.self.ai"):
            decay = np.logaddexp(0, -values.astype(np.float64))
        else:
            continue
        print(f"{name.split('.attention')[0]}: " + ", ".join(f"{m:,.0f}" for m in np.sort(1 / decay.ravel())) + " tokens")


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Of a safetensors file: those of float16 and float32."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    kinds = {"F16": "<f2", "F32": "<f4"}
    return {
        name: np.frombuffer(data[8 + size :][slice(*about["data_offsets"])], kinds[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items()
        if name != "__metadata__" and about["dtype"] in kinds
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", default="127.0.0.1:50051")
    parser.add_argument("--model", default="", help="its name; empty = the server's first")
    parser.add_argument("--manuals", type=pathlib.Path, default=pathlib.Path("/usr/share/man"))
    parser.add_argument("--learned", action="store_true", help="also pages of families that demo/long_model was trained on")
    parser.add_argument("--pages", type=int, default=150, help="so many at most, spread over all that fit")
    parser.add_argument("--window", type=int, default=96, help="tokens a passage")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--memory", type=pathlib.Path, metavar="MODEL_DIR", help="print how far its heads remember, and end")
    arguments = parser.parse_args()
    if arguments.memory is not None:
        memory(arguments.memory)
        return 0
    found = [m for m in read_manuals(arguments.manuals, 8_000, 60_000) if arguments.learned or split_of(m.name) == "heldout"]
    if not found:
        print(f"no manual pages of 8 to 60 kB under {arguments.manuals}" + ("" if arguments.learned else " that are held out"), file=sys.stderr)
        return 1
    manuals = found[:: max(1, len(found) // arguments.pages)][: arguments.pages]
    with Client(arguments.target, model=arguments.model, deadline=None) as client:
        passages, ways = embed(client, manuals, arguments.window)
        recall(client, manuals, passages, ways, arguments.k)
    return 0


if __name__ == "__main__":
    sys.exit(main())
