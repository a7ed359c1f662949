# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model: MiniLM's vectors and Debian's sections, in one LION-S encoder of 7.5 million parameters.

    python train.py --work build/train_demo --out build/train_demo/model --minutes 9        # one GPU

Every step is one of three kinds:
    pair      a synopsis and a text of the same package (description, both, or some sentences): vectors like the
              teacher's, each synopsis nearest to its own description, and the package's section from the [CLS] row
    sentence  neighbouring sentences alone: vectors like the teacher's
    long      many packages joined to 512 … 8,192 tokens, half of the time of one section: vectors like the token-weighted
              mean of the teacher's for the parts, and that section. It keeps long documents sane

The learning rate follows the share of --minutes that has passed. --checkpoint FILE is written once a minute and read at
the start if it exists, so the same command goes on where it was cut. The model directory is exported along with it.
"""

import argparse
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [TOOLS, os.path.join(TOOLS, "train")]

from corpus import Corpus, description, full_text, read_split  # noqa: E402
from lion import PARALLEL_MAX, LionTextModel, device_of, new_config, run_texts, write_model  # noqa: E402
from losses import KL_SCALE, distill  # noqa: E402
from saving import save_checkpoint  # noqa: E402
from teacher import Teacher  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

PAIR_TOKENS = 131072  # a pair batch is 1,024 packages, or as many as this allows
LONG_TOKENS = 65536


def contrast(queries, texts, alike):
    """Symmetric InfoNCE; `alike` (B, B) marks pairs that are no fair negatives."""
    logits = (queries @ texts.T * KL_SCALE).masked_fill(alike, -1e4)
    target = torch.arange(len(queries), device=queries.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Trainer:
    def __init__(self, args):
        self.args = args
        self.device = device_of("auto")
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        self.rng = np.random.default_rng(args.seed)
        self.started = time.monotonic()

        train = read_split(f"{args.work}/corpus.jsonl.xz", "train")[: args.limit]
        self.dev = read_split(f"{args.work}/corpus.jsonl.xz", "dev")[: args.limit]
        self.labels = sorted({r["section"] for r in train})
        self.tokenizer = Tokenizer.from_file(f"{args.work}/tokenizer.json")
        self.corpus = Corpus(train, self.rng, args.spans)
        self.tokens = self.corpus.tokens(self.tokenizer, PARALLEL_MAX, self.device)
        index = {label: i for i, label in enumerate(self.labels)}
        self.section = np.array([index[r["section"]] for r in train])
        self.section_device = torch.from_numpy(self.section).to(self.device)
        self.by_section = [np.flatnonzero(self.section == i) for i in range(len(self.labels))]
        sentences = self.corpus.sentences
        self.sentences_by_length = sentences[np.argsort(self.tokens.length[sentences])]
        self.say(f"{len(train)} packages, {len(self.corpus.kind)} texts, {len(self.tokens.flat)} tokens")
        self.targets = self.teach()

        config = new_config(self.labels, self.tokenizer.get_vocab_size(), args.dropout)
        self.model = LionTextModel(config, self.targets.shape[1]).to(self.device)
        self.say(f"{sum(p.numel() for p in self.model.parameters())} parameters")
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.step, self.spent, self.order = 0, 0.0, []
        self.sums, self.counts = {}, {}

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def teach(self):
        """The teacher's vectors of all texts, float16 on the device; prints its recall on the dev packages."""
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        teacher = Teacher(f"{self.args.work}/teacher", self.device, half)
        tokens = self.corpus.tokens(teacher.tokenizer, teacher.max_tokens, self.device)
        self.say("teacher's tokens ready")
        targets = torch.empty(len(self.corpus.kind), teacher.width, dtype=torch.float16, device=self.device)
        order = np.argsort(tokens.length, kind="stable")[::-1].copy()
        while len(order):
            rows = order[: max(1, 131072 // (int(tokens.length[order[0]]) + 2))]
            order = order[len(rows) :]
            targets[torch.from_numpy(rows).to(self.device)] = teacher.run(*tokens.batch(rows)).half()
        pairs = self.dev_pairs()
        recall = recall_at_1(
            teacher.embed([r["synopsis"] for r in pairs]), teacher.embed([description(r) for r in pairs])
        )
        self.say(f"teacher's vectors ready; its dev recall@1 among {len(pairs)} is {recall:.4f}")
        return targets

    def dev_pairs(self):
        return list({r["group"]: r for r in self.dev}.values())

    def forward(self, ids, mask):
        """The model on (ids, mask), with a share of the tokens hidden."""
        hidden = (torch.rand(ids.shape, device=self.device) < self.args.masked) & (ids > self.tokens.mask_token)
        ids = torch.where(hidden, self.tokens.mask_token, ids)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.model(ids, mask)

    def classify(self, logits, sections):
        return F.cross_entropy(logits, sections, label_smoothing=0.1)

    def next_packages(self):
        """The next batch of packages: an epoch is cut into batches of like length, in random order."""
        if not self.order:
            length = self.tokens.length[self.corpus.full] * self.rng.uniform(0.8, 1.25, len(self.corpus.full))
            by_length = np.argsort(length)
            while len(by_length):
                longest = self.tokens.length[self.corpus.full[by_length[:1024]]].max() + 2
                n = min(len(by_length), 1024, PAIR_TOKENS // longest)
                self.order.append(by_length[:n])
                by_length = by_length[n:]
            self.rng.shuffle(self.order)
        return self.order.pop()

    def pair_step(self):
        p = self.next_packages()
        corpus = self.corpus
        choice = self.rng.random(len(p))
        first, last = corpus.first_sentence[p], corpus.first_sentence[p + 1]
        some = corpus.sentences[
            np.minimum(self.rng.integers(first, np.maximum(last, first + 1)), len(corpus.sentences) - 1)
        ]
        body = np.where(choice < 0.4, corpus.full[p], corpus.description[p])
        body = np.where((choice > 0.8) & (last > first), some, body)
        rows = np.concatenate([corpus.synopsis[p], body])
        target = self.targets[torch.from_numpy(rows).to(self.device)].float()
        sections = self.section_device[torch.from_numpy(p).to(self.device)]

        query, query_logits = self.forward(*self.tokens.batch(corpus.synopsis[p]))
        text, text_logits = self.forward(*self.tokens.batch(body))
        loss, cosine = distill(torch.cat([query, text]), target)
        # A synopsis inside the full text makes retrieval trivial: those rows are left out, as queries and as negatives.
        fair = torch.from_numpy(np.flatnonzero(choice >= 0.4)).to(self.device)
        q, t = target[: len(p)][fair], target[len(p) :][fair]
        same = torch.eye(len(fair), dtype=torch.bool, device=self.device)
        alike = ((q @ q.T > 0.9) | (t @ t.T > 0.9)) & ~same
        nce = contrast(query[fair], text[fair], alike)
        ce = self.classify(text_logits, sections)
        query_ce = self.classify(query_logits, sections)
        accuracy = (text_logits.argmax(-1) == sections).float().mean()
        self.note(cosine=cosine, nce=nce, ce=ce, accuracy=accuracy)
        return loss + self.args.contrast * nce + self.args.classify * (ce + 0.3 * query_ce)

    def sentence_step(self):
        # A window of the length-sorted sentences: like lengths, so little padding.
        start = self.rng.integers(0, max(1, len(self.sentences_by_length) - 16384))
        window = self.rng.permutation(self.sentences_by_length[start : start + 16384])
        rows = window[: min(2048, PAIR_TOKENS // (self.tokens.length[window].max() + 2))]
        vectors, _ = self.forward(*self.tokens.batch(rows))
        loss, cosine = distill(vectors, self.targets[torch.from_numpy(rows).to(self.device)].float())
        self.note(sentence=cosine)
        return loss

    def long_step(self):
        L = int(2 ** self.rng.uniform(9, 13))
        B = min(LONG_TOKENS // L, 64) if self.device.type == "cuda" else 2
        one_section = self.rng.random() < 0.5
        ids = np.zeros((B, L), dtype=np.int64)
        targets, sections = [], np.zeros(B, dtype=np.int64)
        for b in range(B):
            pool = (
                self.by_section[self.section[self.rng.integers(len(self.section))]]
                if one_section
                else np.arange(len(self.section))
            )
            sections[b] = self.section[pool[0]]
            at, parts, weights = 1, [], []
            ids[b, 0] = self.tokens.cls
            while at < L - 1:
                row = self.corpus.full[pool[self.rng.integers(len(pool))]]
                n = min(int(self.tokens.length[row]), L - 1 - at)
                ids[b, at : at + n] = self.tokens.flat[self.tokens.start[row] : self.tokens.start[row] + n]
                at += n
                parts.append(row), weights.append(n)
            ids[b, L - 1] = self.tokens.sep
            vectors = self.targets[torch.from_numpy(np.array(parts)).to(self.device)].float()
            targets.append(torch.tensor(weights, device=self.device, dtype=torch.float) @ vectors)
        ids = torch.from_numpy(ids).to(self.device)
        vectors, logits = self.forward(ids, torch.ones(ids.shape, device=self.device))
        loss, cosine = distill(vectors, F.normalize(torch.stack(targets), dim=-1))
        self.note(long=cosine)
        if one_section:
            loss = loss + self.args.classify * self.classify(logits, torch.from_numpy(sections).to(self.device))
        return loss

    def note(self, **values):
        for k, v in values.items():
            self.sums[k] = self.sums.get(k, 0) + v.detach()
            self.counts[k] = self.counts.get(k, 0) + 1

    def train(self):
        args = self.args
        budget, checked = args.minutes * 60, time.monotonic()
        begun, before = checked, self.spent
        self.model.train()
        while self.spent < budget:
            share = self.spent / budget
            rate = args.rate * min(1, (self.step + 1) / 300) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            draw = self.rng.random()
            kind = (
                self.long_step
                if draw < args.long
                else self.sentence_step if draw < args.long + args.sentence else self.pair_step
            )
            loss = kind()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.note(norm=norm, loss=loss)
            self.step += 1
            if self.step % 20 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()  # so that the clock below tells the work done, not the work queued
            self.spent = before + time.monotonic() - begun
            if time.monotonic() - checked >= args.every:
                self.check()
                self.model.train()
                checked = time.monotonic()
        self.check()

    def check(self):
        """Prints the means since the last check and the figures on the dev packages; saves."""
        means = " ".join(f"{k} {float(v) / self.counts[k]:.4f}" for k, v in sorted(self.sums.items()))
        self.sums, self.counts = {}, {}
        self.model.eval()
        pairs = self.dev_pairs()
        queries = run_texts(self.model, self.tokenizer, [r["synopsis"] for r in pairs])[0]
        texts = run_texts(self.model, self.tokenizer, [description(r) for r in pairs])[0]
        logits = run_texts(self.model, self.tokenizer, [full_text(r) for r in self.dev])[1]
        right = np.mean([self.labels[i] == r["section"] for i, r in zip(logits.argmax(-1).tolist(), self.dev)])
        recall = recall_at_1(queries, texts)
        self.say(f"step {self.step} ({self.spent:.0f} s): {means} | dev recall@1 {recall:.4f} accuracy {right:.4f}")
        write_model(self.model, self.tokenizer, self.args.out)
        if self.args.checkpoint:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "spent": self.spent,
            }
            save_checkpoint(self.args.checkpoint, state)

    def resume(self):
        state = torch.load(self.args.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]
        self.rng = np.random.default_rng([self.args.seed, self.step])
        self.say(f"goes on at step {self.step}")


def recall_at_1(queries, texts):
    return ((queries @ texts.T).argmax(-1) == torch.arange(len(queries))).float().mean().item()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", default="build/train_demo", help="what prepare_data.py wrote")
    p.add_argument("--out", default="build/train_demo/model", help="model directory to write")
    p.add_argument("--checkpoint", default="", help="file to resume from and to write; none if empty")
    p.add_argument(
        "--minutes", type=float, default=9.0, help="time spent in steps; reading and the teacher come before"
    )
    p.add_argument("--every", type=float, default=60.0, help="seconds between checks")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--weight_decay", type=float, default=0.02)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--masked", type=float, default=0.03, help="share of tokens replaced by [MASK]")
    p.add_argument("--spans", type=int, default=8, help="sentence spans drawn per package")
    p.add_argument("--contrast", type=float, default=1.0, help="weight of the synopsis-description loss")
    p.add_argument("--classify", type=float, default=1.0, help="weight of the section loss")
    p.add_argument("--sentence", type=float, default=0.25, help="share of sentence steps")
    p.add_argument("--long", type=float, default=0.06, help="share of long steps")
    p.add_argument("--limit", type=int, default=None, help="packages to read, for a trial")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    trainer = Trainer(args)
    if args.checkpoint and os.path.exists(args.checkpoint):
        trainer.resume()
    trainer.train()


if __name__ == "__main__":
    main()
