# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a model whose passages know the document they stand in, from demo/model on.

    python train.py --minutes 5 --out build/train_long/model        # one GPU

A step takes whole manual pages through the model once and cuts them into windows, as EmbedDocument does:
    window    each window's vector like the teacher's for the page's name and purpose put before the window's text: what
              the passage means, where it stands
    question  "exit status of gzip: compress or expand files" nearest to the windows of that section of that page,
              among all windows of the batch
    alone     some windows' texts by themselves, like the teacher's vectors for them, and the same questions: so that
              the model stays one for short texts, and what its windows are compared with was trained for the task too

The learning rate follows the share of --minutes that has passed. --checkpoint FILE is written at each check and read at
the start if it exists, so the same command goes on where it was cut. Without a GPU, --limit 40 --steps 3
--batch_tokens 4096 shows that everything works, slowly.
"""

import argparse
import json
import lzma
import math
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / folder) for folder in ("tools", "tools/train", "tools/train_demo")]

from lion import LionTextModel, device_of, pad, read_weights, run_texts  # noqa: E402
from losses import distill  # noqa: E402
from model_directory import layout  # noqa: E402
from saving import replace_model, save_checkpoint  # noqa: E402
from teacher import Teacher  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

SCALE = 20.0  # cosines times this are logits
WINDOW = 96  # tokens, where the figures are taken; training draws from half to twice of it
WHOLE = 0.6  # share of the pages that a step reads from end to end


class Tokens:
    """A text's tokens under one tokenizer, without special ones, and the bytes at which they start and end."""

    def __init__(self, encoding, text):
        # The tokenizers count characters; each is one byte, and one more from each of these on.
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        at = np.concatenate([[0], np.cumsum(1 + sum((characters >= first).astype(np.int64) for first in (0x80, 0x800, 0x10000)))])
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        self.ids = np.array(encoding.ids, dtype=np.int64)
        self.start, self.end = at[offsets[:, 0]], at[offsets[:, 1]]

    def within(self, start, end):
        """The ids of the tokens that start in the bytes [start, end)."""
        first, last = np.searchsorted(self.start, [start, end])
        return self.ids[first:last]


class Page:
    """A page of pages.jsonl, with its text's encodings by the student's and the teacher's tokenizer and its title's."""

    def __init__(self, record, student, teacher, title):
        self.name, self.purpose, self.text = record["name"], record["purpose"], record["text"]
        self.student, self.teacher = Tokens(student, self.text), Tokens(teacher, self.text)
        self.title = np.array(title.ids)
        self.sections = [s for s in record["sections"] if s[2] > s[1]]

    def __len__(self):
        return len(self.student.ids) + 2

    def part(self, rng):
        """(first, past): which of the page's tokens a step reads: all of them, or a run of at least half of them."""
        n = len(self.student.ids)
        size = n if rng.random() < WHOLE else int(n * rng.uniform(0.5, 1))
        first = int(rng.integers(n - size + 1))
        return first, first + size

    def window_bytes(self, windows, first=0):
        """[n, 2]: of the page's text, where its token `first` stands after [CLS]."""
        last = len(self.student.ids) - 1
        start = np.clip(windows[:, 0] - 1 + first, 0, last)
        past = np.clip(windows[:, 1] - 2 + first, 0, last)
        return np.stack([self.student.start[start], self.student.end[past]], -1)

    def question(self, section):
        return f"{section[0].lower()} of {self.name}: {self.purpose}"


def cut(length, size):
    """[n, 2]: windows of a row of tokens, [CLS] and [SEP] among them, half open, end to end."""
    start = np.arange(0, length, size)
    return np.stack([start, np.minimum(start + size, length)], -1)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.device = device_of(args.device)
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        self.rng = np.random.default_rng(args.seed)
        self.started = time.monotonic()
        self.model, self.tokenizer = read_encoder(args.model)
        self.model.to(self.device)
        self.tokenizer.no_truncation()
        self.mask_token = self.tokenizer.token_to_id("[MASK]")
        if self.mask_token != max(self.tokenizer.token_to_id(t) for t in layout.SPECIAL_TOKENS):
            raise ValueError(f"{args.model}: [MASK] is not the last of the special tokens")
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        self.teacher = Teacher(args.teacher, self.device, half)
        self.pages = {split: self.read_pages(split) for split in ("train", "dev")}
        self.say(f"{len(self.pages['train'])} pages, {sum(map(len, self.pages['train'])):,} tokens; {len(self.pages['dev'])} to watch")
        parameters = [p for n, p in self.model.named_parameters() if not n.startswith("bert.pooler")]
        groups = [
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": args.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.step, self.spent, self.order = 0, 0.0, []
        self.sums, self.counts = {}, {}

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def read_pages(self, split):
        with lzma.open(f"{self.args.work}/pages.jsonl.xz", "rt", encoding="utf-8") as f:
            records = [r for r in map(json.loads, f) if r["split"] == split][: self.args.limit]
        pages = []
        for begin in range(0, len(records), 256):
            some = records[begin : begin + 256]
            texts, titles = [r["text"] for r in some], [f"{r['name']}: {r['purpose']}\n" for r in some]
            encodings = [
                tokenizer.encode_batch(t, add_special_tokens=False)
                for tokenizer, t in ((self.tokenizer, texts), (self.teacher.tokenizer, texts), (self.teacher.tokenizer, titles))
            ]
            pages += [Page(*row) for row in zip(some, *encodings)]
        return pages

    def special(self, ids):
        cls, sep = (self.tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
        return np.concatenate([[cls], ids, [sep]])

    def hidden(self, sequences):
        """The last hidden states (B, L, E) of sequences of ids, and which of them are tokens."""
        ids, mask = (t.to(self.device) for t in pad(sequences))
        if self.model.training and self.args.masked:
            chosen = (torch.rand(ids.shape, device=self.device) < self.args.masked) & (ids > self.mask_token)
            ids = torch.where(chosen, self.mask_token, ids)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model.bert(ids, mask).float(), mask

    def project(self, means):
        return F.normalize(self.model.dense(means).float(), dim=-1)

    def window_vectors(self, rows, windows):
        """Unit vectors of all windows of all rows of ids, in order: means of one pass's hidden states."""
        x, _ = self.hidden([self.special(ids) for ids in rows])
        means = []
        for states, cuts in zip(x, windows):
            sums = F.pad(states[: cuts[-1, 1]].double().cumsum(0), (0, 0, 1, 0))
            cuts = torch.from_numpy(cuts).to(self.device)
            means.append((sums[cuts[:, 1]] - sums[cuts[:, 0]]) / (cuts[:, 1] - cuts[:, 0])[:, None])
        return self.project(torch.cat(means).float())

    def short_vectors(self, sequences):
        x, mask = self.hidden(sequences)
        return self.project((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def teach(self, sequences):
        """The teacher's vectors of sequences of its ids without special ones, cut to what it reads."""
        cls, sep = (self.teacher.tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
        room = self.teacher.max_tokens - 2
        return self.teacher.run(*(t.to(self.device) for t in pad([np.concatenate([[cls], s[:room], [sep]]) for s in sequences])))

    def next_pages(self):
        """The next batch: an epoch is cut into batches of like length, in random order."""
        if not self.order:
            pages = self.pages["train"]
            length = np.array([len(p) for p in pages]) * self.rng.uniform(0.8, 1.25, len(pages))
            by_length = list(np.argsort(length))
            while by_length:
                n = max(1, min(64, self.args.batch_tokens // len(pages[by_length[-1]])))
                self.order.append(by_length[-n:])
                del by_length[-n:]
            self.rng.shuffle(self.order)
        return [self.pages["train"][i] for i in self.order.pop()]

    def loss(self):
        pages = self.next_pages()
        size = int(WINDOW * 2 ** self.rng.uniform(-1, 1))
        parts = [p.part(self.rng) for p in pages]
        windows = [cut(past - first + 2, size) for first, past in parts]
        spans = [p.window_bytes(w, first) for p, w, (first, _) in zip(pages, windows, parts)]
        vectors = self.window_vectors([p.student.ids[slice(*part)] for p, part in zip(pages, parts)], windows)
        owner = np.concatenate([np.full(len(w), i) for i, w in enumerate(windows)])
        span = np.concatenate(spans)

        some = self.rng.permutation(len(owner))[: self.args.taught]
        passages = [pages[owner[i]].teacher.within(*span[i]) for i in some]
        titled = self.teach([np.concatenate([pages[owner[i]].title, p]) for i, p in zip(some, passages)])
        rows = torch.from_numpy(some).to(self.device)
        window_loss, window_cosine = distill(vectors[rows], titled)

        few = np.arange(min(len(some), self.args.alone))
        alone = self.short_vectors([self.special(pages[owner[some[i]]].student.within(*span[some[i]])) for i in few])
        alone_loss, alone_cosine = distill(alone, self.teach([passages[i] for i in few]))

        questions, hits = [], []
        for i, page in enumerate(pages):
            for s in self.rng.permutation(len(page.sections))[: self.args.questions]:
                section = page.sections[s]
                middle = span.mean(-1)
                hit = (owner == i) & (middle >= section[1]) & (middle < section[2])
                if hit.any():
                    questions.append(page.question(section))
                    hits.append(hit)
        total = window_loss + alone_loss
        self.note(window=window_cosine, alone=alone_cosine)
        if questions:
            asked = self.short_vectors([np.array(e.ids) for e in self.tokenizer.encode_batch(questions)])
            ids = [np.array(e.ids) for e in self.teacher.tokenizer.encode_batch(questions, add_special_tokens=False)]
            question_loss, _ = distill(asked, self.teach(ids))
            hits = torch.from_numpy(np.stack(hits)).to(self.device)
            nce = contrast(asked, vectors, hits)
            alone_hits = hits[:, rows[: len(few)]]
            found = alone_hits.any(-1)
            nce_alone = contrast(asked[found], alone, alone_hits[found]) if found.any() else torch.zeros_like(nce)
            total = total + question_loss + self.args.contrast * (nce + nce_alone)
            self.note(nce=nce, nce_alone=nce_alone)
        return total

    def note(self, **values):
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0) + v.detach()
            self.counts[k] = self.counts.get(k, 0) + 1

    def train(self):
        args = self.args
        if self.step == 0:
            self.check()
        budget, checked = math.inf if args.steps else args.minutes * 60, time.monotonic()
        begun, before = checked, self.spent
        self.model.train()
        while self.spent < budget and (args.steps == 0 or self.step < args.steps):
            share = self.step / args.steps if args.steps else self.spent / budget
            rate = args.rate * min(1, (self.step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.note(loss=loss)
            self.step += 1
            if self.step % 20 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()  # so that the clock below tells the work done, not the work queued
            self.spent = before + time.monotonic() - begun
            if time.monotonic() - checked >= args.every:
                self.check()
                self.model.train()
                checked = time.monotonic()
        self.check()

    @torch.no_grad()
    def check(self):
        """Prints the means since the last check, recall@10 on the pages to watch and the heads' memory; saves."""
        means = " ".join(f"{k} {float(v) / self.counts[k]:.4f}" for k, v in sorted(self.sums.items()))
        self.sums, self.counts = {}, {}
        self.model.eval()
        pages = self.pages["dev"]
        windows = [cut(len(p), WINDOW) for p in pages]
        spans = [p.window_bytes(w) for p, w in zip(pages, windows)]
        ways = {
            "windows": torch.cat([self.window_vectors([p.student.ids], [w]) for p, w in zip(pages, windows)]).cpu(),
            "alone": run_texts(self.model, self.tokenizer, [p.text.encode()[a:b].decode(errors="ignore") for p, s in zip(pages, spans) for a, b in s])[0],
        }
        owner = np.concatenate([np.full(len(w), i) for i, w in enumerate(windows)])
        middle = np.concatenate(spans).mean(-1)
        asked = [(i, s) for i, p in enumerate(pages) for s in p.sections]
        hits = np.stack([(owner == i) & (middle >= s[1]) & (middle < s[2]) for i, s in asked])
        vectors = run_texts(self.model, self.tokenizer, [pages[i].question(s) for i, s in asked])[0]
        recalls = []
        for name, passages in ways.items():
            best = (vectors @ passages.T).topk(min(10, len(owner)), -1).indices.numpy()
            right = [hit[row].any() for hit, row in zip(hits, best) if hit.any()]
            recalls.append(f"{name} {np.mean(right):.4f}")
        self.say(f"step {self.step} ({self.spent:.0f} s): {means} | dev recall@10 {' '.join(recalls)}")
        self.say("memory in tokens, a layer each: " + "; ".join(self.memory()))
        if self.step:
            replace_model(self.model, self.tokenizer, self.args.out)
        if self.step and self.args.checkpoint:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step, "spent": self.spent}
            save_checkpoint(self.args.checkpoint, state)

    def memory(self):
        """Of each head, the tokens after which a key has decayed to 1/e at the gate's bias alone."""
        for layer in self.model.bert.encoder["layer"]:
            bias = layer.attention["self"].Wa_i.bias.double()
            yield ", ".join(f"{m:,.0f}" for m in sorted((1 / F.softplus(bias)).tolist()))

    def resume(self):
        state = torch.load(self.args.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]
        self.rng = np.random.default_rng([self.args.seed, self.step])
        self.say(f"goes on at step {self.step}")


def read_encoder(directory):
    """The model without its classifier, which is not trained here, and its tokenizer."""
    weights, config = read_weights(directory)
    config = {k: v for k, v in config.items() if k not in ("num_labels", "id2label", "label2id", "problem_type")}
    weights = {k: v for k, v in weights.items() if not k.startswith("classifier.")}
    model = LionTextModel(config, weights["dense.weight"].shape[0])
    model.load_state_dict(weights)
    return model, Tokenizer.from_file(f"{directory}/tokenizer.json")


def contrast(questions, passages, hits):
    """How far each question's right passages (hits (Q, P)) are from having all of the softmax over passages."""
    logits = questions @ passages.T * SCALE
    right = logits.masked_fill(~hits, -1e4).logsumexp(-1)
    return (logits.logsumexp(-1) - right).mean()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", default=str(ROOT / "build/train_long"), help="what prepare_pages.py wrote")
    p.add_argument("--teacher", default="", help="default: teacher in --work")
    p.add_argument("--model", default=str(ROOT / "demo/model"), help="where training starts")
    p.add_argument("--out", default=str(ROOT / "build/train_long/model"), help="model directory to write")
    p.add_argument("--checkpoint", default="", help="file to resume from and to write; none if empty")
    p.add_argument("--minutes", type=float, default=5.0, help="time spent in steps; reading comes before")
    p.add_argument("--steps", type=int, default=0, help="ends after so many instead, whatever time they take")
    p.add_argument("--every", type=float, default=60.0, help="seconds between checks")
    p.add_argument("--batch_tokens", type=int, default=65536)
    p.add_argument("--taught", type=int, default=512, help="windows a step that the teacher is asked about")
    p.add_argument("--alone", type=int, default=256, help="of them, those that are also read alone")
    p.add_argument("--questions", type=int, default=4, help="a page")
    p.add_argument("--contrast", type=float, default=1.0, help="weight of the questions' loss")
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument("--weight_decay", type=float, default=0.02)
    p.add_argument("--masked", type=float, default=0.05, help="share of the tokens replaced by [MASK]")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    p.add_argument("--limit", type=int, default=None, help="pages of a split to read, for a trial")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.teacher = args.teacher or f"{args.work}/teacher"
    trainer = Trainer(args)
    if args.checkpoint and os.path.exists(args.checkpoint):
        trainer.resume()
    trainer.train()


if __name__ == "__main__":
    main()
