# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What is searched: descriptions of Debian packages, from a file of JSON lines or from this machine's apt."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import pathlib
import subprocess
from typing import Iterator


@dataclasses.dataclass(frozen=True)
class Package:
    name: str
    synopsis: str  # one line
    description: str  # may be empty

    @property
    def text(self) -> str:
        """What is embedded."""
        return f"{self.synopsis}\n{self.description}" if self.description else self.synopsis

    @property
    def digest(self) -> str:
        """Changes with the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_jsonl(path: pathlib.Path) -> Iterator[Package]:
    """Lines of {"name", "synopsis", "description"}, gzipped if the name says so."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Package(row["name"], row["synopsis"], row.get("description", ""))


def read_apt() -> Iterator[Package]:
    """Every package that apt knows here, once. Long descriptions are there if the machine's apt keeps them."""
    seen = set()
    with subprocess.Popen(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, encoding="utf-8") as process:
        for stanza in _stanzas(process.stdout):
            name, text = stanza.get("Package", ""), stanza.get("Description-en") or stanza.get("Description", "")
            if not text or name in seen:
                continue
            seen.add(name)
            synopsis, _, body = text.partition("\n")
            yield Package(name, synopsis, "\n".join("" if line.strip() == "." else line.strip() for line in body.splitlines()))
    if process.returncode != 0:
        raise RuntimeError(f"apt-cache dumpavail ended with {process.returncode}")


def _stanzas(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    key = ""
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields = {}
        elif line[0] in " \t":
            fields[key] += "\n" + line
        else:
            key, _, value = line.partition(":")
            fields[key] = value.strip()
    if fields:
        yield fields
