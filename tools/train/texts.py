# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of a run as token ids, split into what is learned from and what is held out, and cut into batches.

All of it is a function of the file, the seed and the step: a run that goes on after a cut sees what it would have seen.
"""

import hashlib

import numpy as np
import torch
from lion import pad

HELD_OUT_MOST = 2000  # rows


def read_lines(path):
    """The lines of a text file that are not empty. ValueError if there are fewer than two."""
    with open(path, encoding="utf-8") as f:
        lines = [line.strip() for line in f if line.strip()]
    if len(lines) < 2:
        raise ValueError(f"{path}: has {len(lines)} lines with a text, at least 2 are needed")
    return lines


def read_labelled(path):
    """(texts, labels) of a file with `label<TAB>text` in each line."""
    texts, labels = [], []
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            label, tab, text = line.rstrip("\n").partition("\t")
            if not tab or not label.strip() or not text.strip():
                raise ValueError(f"{path}:{number}: is not a label, a tab and a text")
            labels.append(label.strip()), texts.append(text.strip())
    if len(set(labels)) < 2:
        raise ValueError(f"{path}: has {len(set(labels))} different labels, at least 2 are needed")
    return texts, labels


def split(texts, share):
    """(rows to learn from, rows held out), by a hash of each text: equal texts are on one side, whatever the order."""
    draws = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:4], "big") / 2**32 for t in texts]
    held_out = [i for i, d in enumerate(draws) if d < share][:HELD_OUT_MOST]
    learned = np.array([i for i, d in enumerate(draws) if d >= share])
    if len(learned) == 0:
        raise ValueError(f"--held_out={share} leaves no text to learn from")
    return learned, np.array(held_out, dtype=int)


def encode(tokenizer, texts, max_tokens):
    """The ids of each text, cut to max_tokens with its special tokens."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    ids = [e.ids for e in tokenizer.encode_batch(texts)]
    tokenizer.no_truncation()
    return ids


class Batches:
    """Batches of rows of like length: at most `most` rows, padded to at most `max_tokens` tokens in all."""

    def __init__(self, encoded, rows, most, max_tokens, seed):
        self._encoded, self._rows = encoded, rows
        self._lengths = np.array([len(encoded[i]) for i in rows])
        self._most, self._max_tokens, self._seed = most, max_tokens, seed
        self._epoch, self._first, self._batches = 0, 0, self._cut(0)  # the epoch at hand, its first step, its batches

    def rows(self, step):
        """The rows of batch `step`, from 0, counted over all epochs. Steps are asked for in rising order."""
        while step >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._epoch += 1
            self._batches = self._cut(self._epoch)
        return self._batches[step - self._first]

    def _cut(self, epoch):
        rng = np.random.default_rng([self._seed, epoch])
        order = np.argsort(self._lengths * rng.uniform(0.8, 1.25, len(self._lengths)), kind="stable")
        batches, begin = [], 0
        while begin < len(order):
            n = min(self._most, len(order) - begin)
            while n > 1 and n * self._lengths[order[begin : begin + n]].max() > self._max_tokens:
                n -= 1
            batches.append(self._rows[order[begin : begin + n]])
            begin += n
        rng.shuffle(batches)
        return batches

    def tensors(self, rows, device):
        """(ids (B, L) int64, mask (B, L) float32) on the device."""
        ids, mask = pad([self._encoded[i] for i in rows])
        return ids.to(device), mask.to(device)


def hidden(ids, mask, share, mask_token, special_tokens):
    """ids with a share of the tokens that are not special replaced by mask_token."""
    if not share or mask_token is None:
        return ids
    chosen = (torch.rand(ids.shape, device=ids.device) < share) & (mask > 0)
    for token in special_tokens:
        chosen &= ids != token
    return torch.where(chosen, mask_token, ids)
