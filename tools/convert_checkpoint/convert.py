# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a model directory, which lion-server serves, of a training checkpoint.

    python tools/convert_checkpoint/convert.py ep1-ba70000-rank0.pt --vocab=vocab.txt --out=models/lion-s
    python tools/convert_checkpoint/convert.py checkpoint.pth --pooling=cls --labels=imagenet.txt --out=models/lion-vit

Reads what torch.save or safetensors wrote: text encoders as composer's or transformers' trainers save them, image encoders as DeiT's
does. Runs nothing that the file holds. Prints what was read, mapped, dropped and could not be told by the tensors. A tensor that
is missing, has another shape than the rest asks for, or is not known ends the conversion with exit code 1, all of them listed and
nothing written; so does a setting that contradicts the tensors. docs/models.md has the whole way to a call.
"""

import argparse
import collections
import json
import os
import re
import sys
import zipfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from checkpoint import open_checkpoint  # noqa: E402
from image import plan_image, preprocessor_config  # noqa: E402
from model_directory import layout, weights  # noqa: E402
from text import plan_text  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

MAX_NAMES = 12  # dropped tensors that a line of the report stands for by name


def parse_arguments(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", help=".pt, .pth, .bin, .ckpt or .safetensors")
    p.add_argument("--out", required=True, help="the model directory; must not exist")
    p.add_argument("--weights", help="where in the file the weights lie, if there are several: model, model_ema, …")
    p.add_argument("--config", help="config.json of the run, if the checkpoint carries none")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="of the weights written; else as they are")
    p.add_argument("--num_heads", type=int, default=0, help="where no tensor tells: LION-LIT and Lit")
    p.add_argument("--positions", choices=["absolute", "none"], default="", help="text: whether the position table is used")
    p.add_argument("--pooling", choices=["cls", "mean"], default="", help="what a vector is made of: the first row, or all")
    p.add_argument("--normalize", action="store_true", help="vectors of length 1, by modules.json")
    p.add_argument("--labels", help="file with the name of a class a line")
    p.add_argument("--multi_label", action="store_true", help="an input may have several classes: sigmoid, not softmax")
    p.add_argument("--vocab", help="text: vocab.txt of a bert-*-uncased tokenizer")
    p.add_argument("--cased", action="store_true", help="--vocab is of a cased tokenizer")
    p.add_argument("--tokenizer", help="text: tokenizer.json, in the place of --vocab")
    p.add_argument("--image_size", type=int, default=0, help="images: pixels of a side, where no tensor tells")
    p.add_argument("--resize", type=int, default=0, help="images: pixels of the shorter side before the crop; 8/7 of the image size if 0")
    p.add_argument("--drop", action="append", default=[], metavar="REGEX", help="leave out tensors so called; may be repeated")
    p.add_argument("--skip_objects", action="store_true", help="leave out what a pickle holds beside tensors and plain data")
    return p.parse_args(arguments)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [line.rstrip("\r\n") for line in f]


def make_tokenizer(options, checkpoint, vocab_size):
    """(Tokenizer or None, where it is from)."""
    if options.tokenizer:
        tokenizer, source = Tokenizer.from_file(options.tokenizer), options.tokenizer
    elif options.vocab:
        tokenizer, source = layout.wordpiece_tokenizer(read_lines(options.vocab), not options.cased), options.vocab
    elif checkpoint.vocabulary:
        tokenizer, source = layout.wordpiece_tokenizer(checkpoint.vocabulary, not options.cased), "the checkpoint's own vocab.txt"
    else:
        return None, ""
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= vocab_size:
        raise ValueError(f"{source}: has the id {highest}, the model's word embeddings have {vocab_size} rows: another model's vocabulary")
    return tokenizer, source


def report(title, text):
    print(f"{title:9s} {text}")


def report_dropped(dropped):
    by_reason = collections.defaultdict(list)
    for name, why in dropped.items():
        by_reason[why].append(name)
    for why, names in by_reason.items():
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        report("dropped", f"{', '.join(names[:MAX_NAMES])}{more}: {why}")


def convert(options):
    """Raises ValueError or OSError, whose text is for the user; nothing is written then."""
    options.labels = read_lines(options.labels) if options.labels else None
    for pattern in options.drop:
        try:
            re.compile(pattern)
        except re.error as e:
            raise ValueError(f"--drop={pattern}: is no regular expression: {e}") from None
    checkpoint = open_checkpoint(options.checkpoint, options.weights, options.skip_objects)
    size = sum(t.nbytes for t in checkpoint.tensors.values())
    report("read", f"{options.checkpoint}: {len(checkpoint.tensors)} tensors under '{checkpoint.where}', {size / 1e6:.1f} MB")
    for path, n in checkpoint.beside.items():
        report("left out", f"{n} tensors under '{path}'")
    for name, n in checkpoint.skipped.items():
        report("left out", f"{n} x {name}, not made (--skip_objects)")

    if checkpoint.kind == "text":
        config = checkpoint.config
        if options.config:
            with open(options.config, encoding="utf-8") as f:
                config = json.load(f)
        plan = plan_text(checkpoint, config, options)
        tokenizer, source = make_tokenizer(options, checkpoint, plan.config["vocab_size"])
        width = plan.config["hidden_size"]
        c = plan.config
        kind = f"text, {c['arch_type']}, {c['num_hidden_layers']} layers x {width}, {c['num_attention_heads']} heads, {c['vocab_size']} words"
        kind += f", positions {c['position_embedding_type'] == 'absolute'}, layer_norm_after {c['layer_norm_after']}"
    else:
        plan = plan_image(checkpoint, options)
        tokenizer, source = None, ""
        width = plan.config["embed_dim"]
        c = plan.config
        kind = f"images, {c['mask_type']}, order {c['order']}, {c['depth']} layers x {width}, {c['num_heads']} heads, {c['img_size']} pixels"
        kind += f", patches of {c['patch_size']}, positions {c['pos_emb']}, features from {'the cls row' if c['cls_tok'] else 'all rows'}"
    classes = plan.config.get("num_labels", 0)
    report("found", kind + (f", {classes} classes" if classes else ", no classifier"))

    store = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", None: None}[options.dtype]
    tensors = {
        name: weights.converted(t, store or ("F32" if t.type == "F64" else t.type)) for name, t in plan.tensors.items()
    }
    with layout.new_directory(options.out) as directory:
        layout.write_json(f"{directory}/config.json", plan.config)
        weights.write_safetensors(f"{directory}/model.safetensors", tensors)
        if tokenizer is not None:
            tokenizer.save(f"{directory}/tokenizer.json")
        if checkpoint.kind == "image":
            S = plan.config["img_size"]
            layout.write_json(f"{directory}/preprocessor_config.json", preprocessor_config(S, options.resize or S * 8 // 7))
        if options.normalize or (options.pooling and checkpoint.kind == "text"):
            pooling = options.pooling or "mean"
            layout.write_pipeline(directory, width, pooling, normalize=options.normalize)
        files = sorted(os.path.relpath(os.path.join(at, f), directory) for at, _, names in os.walk(directory) for f in names)
    report("mapped", f"{len(tensors)} tensors")
    report_dropped(plan.dropped)
    for line in plan.untold:
        report("not told", line)
    if checkpoint.kind == "text":
        report("tokenizer", source or "none: only token ids can be sent; --vocab or --tokenizer gives one")
    report("wrote", f"{options.out}: {', '.join(files)}")


def main():
    options = parse_arguments(sys.argv[1:])
    try:
        convert(options)
    except (ValueError, OSError, zipfile.BadZipFile) as e:
        sys.exit(f"convert.py: {e}")


if __name__ == "__main__":
    main()
