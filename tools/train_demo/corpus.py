# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The training texts as ranges of one token array on the device, so that a batch is one gather.

A package is a run of pieces: its synopsis, then the sentences of its description. Both tokenizers split at white
space first, so the tokens of any run of pieces are the tokens of the joined text. A text is such a run:

    SYNOPSIS      the first piece          DESCRIPTION   all but the first
    FULL          all pieces               SENTENCE      one or several neighbouring sentences, drawn at random
"""

import json
import lzma

import numpy as np
import torch

SYNOPSIS, DESCRIPTION, FULL, SENTENCE = range(4)


def read_split(path, split):
    with lzma.open(path, "rt") as f:
        return [r for r in map(json.loads, f) if r["split"] == split]


def description(record):
    return "\n".join(" ".join(p) for p in record["paragraphs"])


def full_text(record):
    return record["synopsis"] + "\n" + description(record)


class Tokens:
    """The pieces' tokens under one tokenizer; batch() adds the special tokens and cuts a text to `max_tokens` in all."""

    def __init__(self, tokenizer, pieces, first, last, max_tokens, device):
        counts, flat = [], []
        for start in range(0, len(pieces), 20000):
            for e in tokenizer.encode_batch(pieces[start : start + 20000], add_special_tokens=False):
                counts.append(len(e.ids))
                flat.append(np.array(e.ids, dtype=np.int32))
        offset = np.concatenate([[0], np.cumsum(counts)])
        self.flat = np.concatenate(flat)
        self.start = offset[first]
        self.length = np.minimum(offset[last] - self.start, max_tokens - 2)  # without [CLS] and [SEP]
        self.device = device
        self.flat_device = torch.from_numpy(self.flat).to(device)
        self.start_device = torch.from_numpy(self.start).to(device)
        self.length_device = torch.from_numpy(self.length).to(device)
        self.cls, self.sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        self.mask_token = tokenizer.token_to_id("[MASK]")

    def batch(self, rows):
        """rows: numpy indices of texts. Returns ids (B, L) int64 and mask (B, L) float32; L is a multiple of 8."""
        L = -(-(int(self.length[rows].max()) + 2) // 8) * 8
        rows = torch.from_numpy(rows).to(self.device, non_blocking=True)
        position = torch.arange(L, device=self.device)[None] - 1
        length = self.length_device[rows][:, None]
        at = self.start_device[rows][:, None] + position.clamp(min=0)
        ids = self.flat_device[at.clamp(max=len(self.flat) - 1)].long()
        ids = torch.where(
            position < 0, self.cls, torch.where(position < length, ids, torch.where(position == length, self.sep, 0))
        )
        return ids, (position <= length).float()


class Corpus:
    """The texts of a split: parallel arrays kind, package, first and last (a range of pieces), and rows by kind."""

    def __init__(self, records, rng, spans_per_package):
        self.records = records
        self.pieces = []
        rows = []  # (kind, package, first, last)
        for p, r in enumerate(records):
            sentences = [s for paragraph in r["paragraphs"] for s in paragraph]
            first = len(self.pieces)
            last = first + 1 + len(sentences)
            self.pieces += [r["synopsis"], *sentences]
            rows += [(SYNOPSIS, p, first, first + 1), (DESCRIPTION, p, first + 1, last), (FULL, p, first, last)]
            spans = {
                (int(a), int(min(last, a + n)))
                for a, n in zip(rng.integers(first + 1, last, spans_per_package), rng.integers(1, 5, spans_per_package))
            }
            rows += [(SENTENCE, p, a, b) for a, b in sorted(spans - {(first + 1, last)})]
        self.kind, self.package, self.first, self.last = (np.array(c) for c in zip(*rows))
        self.synopsis, self.description, self.full = (
            np.flatnonzero(self.kind == k) for k in (SYNOPSIS, DESCRIPTION, FULL)
        )
        self.sentences = np.flatnonzero(self.kind == SENTENCE)
        # Package p has the rows first_sentence[p] up to first_sentence[p + 1] of `sentences`, perhaps none.
        self.first_sentence = np.searchsorted(self.package[self.sentences], np.arange(len(records) + 1))

    def tokens(self, tokenizer, max_tokens, device):
        return Tokens(tokenizer, self.pieces, self.first, self.last, max_tokens, device)
