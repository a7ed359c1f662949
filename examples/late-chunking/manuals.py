# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Long documents that every Debian machine carries: its manual pages, as plain text, with the places of their sections."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pathlib
import re
from typing import Iterator


@dataclasses.dataclass(frozen=True)
class Section:
    title: str  # "EXIT STATUS"
    start: int  # half open, in bytes of the page's UTF-8
    end: int


@dataclasses.dataclass(frozen=True)
class Manual:
    name: str  # "gzip"
    purpose: str  # "compress or expand files"
    text: str  # all sections but NAME, which would give the answer away
    sections: list[Section]


def read_manuals(folder: pathlib.Path, min_bytes: int, max_bytes: int) -> Iterator[Manual]:
    """The pages whose text is of that size, by name; each text once."""
    seen = set()
    for path in sorted(folder.glob("man[1-8]/*.gz")):
        try:
            source = gzip.decompress(path.read_bytes()).decode()
        except (OSError, UnicodeDecodeError):
            continue
        manual = parse(source)
        if manual is None or not min_bytes <= len(manual.text.encode()) <= max_bytes or manual.text in seen:
            continue
        seen.add(manual.text)
        yield manual


def family(name: str) -> str:
    """The name's first word, without its number: git-add → git, perlfaq1 → perlfaq, xcb_map_window → xcb."""
    return re.match(r"[A-Za-z]*", re.split(r"[-_.:]", name.lower())[0]).group() or name


def split_of(name: str) -> str:
    """What a page is for: "train", or "dev" (3 families of 100) to watch a training by, or "heldout" (10 of 100) for figures.

    A page goes with its family, so that none is judged whose sibling was learned.
    """
    place = int.from_bytes(hashlib.sha256(family(name).encode()).digest()[:4], "big") % 100
    return "heldout" if place < 10 else "dev" if place < 13 else "train"


def parse(source: str) -> Manual | None:
    """What man(7) macros say, without groff: enough of it to read. None for mdoc pages and those without a NAME."""
    sections: list[tuple[str, list[str]]] = []
    for line in source.splitlines():
        if line.startswith((".\\\"", "'\\\"", ".Dd")):
            if line.startswith(".Dd"):
                return None
            continue
        macro = re.match(r"[.'](\w+)\s*(.*)", line)
        if macro is None:
            words = clean(line)
        elif macro[1] == "SH":
            sections.append((clean(macro[2].strip('" ')), []))
            continue
        elif macro[1] in ("B", "I", "BR", "IR", "RB", "RI", "BI", "IB", "IP", "SS", "SM", "SB", "TQ"):
            words = clean(macro[2].replace('"', ""))
        elif macro[1] in ("PP", "P", "LP", "TP", "sp"):
            words = "\n"
        else:
            continue
        if sections and words:
            sections[-1][1].append(words)
    names = [" ".join(lines) for title, lines in sections if title == "NAME"]
    named = re.match(r"\s*([\w.+-]+)[^-]*-+\s+(.+)", names[0]) if names else None
    if named is None:
        return None
    text, places = "", []
    for title, lines in sections:
        if title == "NAME":
            continue
        start = len(text.encode())
        text += title + "\n" + re.sub(r"\s*\n\s*", "\n", " ".join(lines)).strip() + "\n\n"
        places.append(Section(title, start, len(text.encode())))
    return Manual(named[1], named[2].strip(), text, places)


def clean(line: str) -> str:
    line = re.sub(r"\\f(?:\[\w*\]|\(..|.)|\\[&|^/,:%]|\\s[-+]?\d", "", line)
    line = re.sub(r"\\\(aq|\\\(cq", "'", line).replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ")
    return re.sub(r"\\(?:\(..|\[[^]]*\]|\*\(..|\*.)", "", line)
