# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What train.py needs, from the manual pages that a Debian machine carries and one PyPI package.

    python prepare_pages.py --manuals /usr/share/man        # apt, pip; CPU, minutes; writes build/train_long

Writes into --work:
    pages.jsonl.xz    the pages to train on and to watch the training by: name, purpose, text, sections, split
    heldout/man1/     the pages that are for examples/late-chunking alone, compressed as they came
    teacher/          as tools/train_demo's prepare_data.py writes it

A page is held out with its family (manuals.py says how), so that no page is judged whose sibling was learned. A page whose passages nearly are those of another page is left out.
"""

import argparse
import collections
import gzip
import json
import lzma
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / folder) for folder in ("examples/late-chunking", "tools/train_demo")]

from manuals import family, parse, split_of  # noqa: E402

def shingles(text):
    """A sixth of the runs of eight words, chosen by what they say."""
    words = text.lower().split()
    runs = (hash(tuple(words[i : i + 8])) for i in range(max(1, len(words) - 7)))
    return {run for run in runs if run % 6 == 0}


def read_pages(folder, min_bytes, max_bytes):
    """(path, Manual) of pages of that size, the longest first, without those of which another has most already."""
    found = []
    for path in sorted(folder.glob("man[1-8]/*.gz")):
        try:
            manual = parse(gzip.decompress(path.read_bytes()).decode())
        except (OSError, UnicodeDecodeError):
            continue
        if manual is not None and min_bytes <= len(manual.text.encode()) <= max_bytes:
            found.append((path, manual))
    found.sort(key=lambda f: (-len(f[1].text), f[0].name))
    seen = set()
    for path, manual in found:
        own = shingles(manual.text)
        if len(own & seen) <= 0.5 * len(own):
            seen.update(own)
            yield path, manual


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--manuals", type=pathlib.Path, default=pathlib.Path("/usr/share/man"))
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "build/train_long")
    p.add_argument("--min_bytes", type=int, default=2_500)
    p.add_argument("--max_bytes", type=int, default=60_000)
    p.add_argument("--pages_of_a_family", type=int, default=60, help="at most: else a few libraries' are most of all")
    p.add_argument("--no_teacher", action="store_true", help="leave the teacher as it is")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    heldout = args.work / "heldout/man1"
    shutil.rmtree(heldout, ignore_errors=True)
    heldout.mkdir(parents=True)
    families, counts = collections.Counter(), collections.Counter()
    with lzma.open(args.work / "pages.jsonl.xz", "wt", preset=6, encoding="utf-8") as out:
        for path, manual in read_pages(args.manuals, args.min_bytes, args.max_bytes):
            families[family(manual.name)] += 1
            if families[family(manual.name)] > args.pages_of_a_family:
                continue
            split = split_of(manual.name)
            counts[split] += 1
            if split == "heldout":
                shutil.copyfile(path, heldout / path.name)
                continue
            sections = [[s.title, s.start, s.end] for s in manual.sections]
            page = {"name": manual.name, "purpose": manual.purpose, "text": manual.text, "sections": sections, "split": split}
            out.write(json.dumps(page, ensure_ascii=False) + "\n")
    size = (args.work / "pages.jsonl.xz").stat().st_size
    print(f"{dict(counts)} pages of {len(families)} families; pages.jsonl.xz {size / 1e6:.1f} MB")
    if not counts["train"] or not counts["dev"] or not counts["heldout"]:
        sys.exit(f"{args.manuals}: too few manual pages of {args.min_bytes} to {args.max_bytes} bytes")
    if not args.no_teacher:
        from prepare_data import fetch_teacher

        fetch_teacher(str(args.work))


if __name__ == "__main__":
    main()
