#!/usr/bin/env python3
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Semantic search over package descriptions: LION Serve makes the vectors, PostgreSQL with pgvector finds the nearest.

    search.py index [--jsonl FILE | --apt]    embeds what is new or has changed; may be stopped and begun again
    search.py find "listen to internet radio" [-k 10]
    search.py serve [--listen 127.0.0.1:8080] a web page
    search.py judge [--questions FILE]        how many questions find their package among the first ten
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import sys
import time

from lion_serve import Client, LionError

import corpus
import web
from store import Store

HERE = pathlib.Path(__file__).resolve().parent
HELD_OUT = HERE.parents[1] / "demo/texts/retrieval.jsonl.gz"  # 2,000 packages that the demo model has not seen
ROWS_A_COMMIT = 512


def index(client: Client, store: Store, args: argparse.Namespace) -> int:
    info = next(m for m in client.list_models() if args.model in ("", m.name))
    store.create(info.embedding_dimensions)
    known = store.known(info.version)
    packages = corpus.read_apt() if args.apt else corpus.read_jsonl(args.jsonl)
    if args.limit:
        packages = itertools.islice(packages, args.limit)
    new, old = [], 0
    for package in packages:
        if known.get(package.name) == package.digest:
            old += 1
        else:
            new.append(package)
    start, done = time.monotonic(), 0
    for begin in range(0, len(new), ROWS_A_COMMIT):
        rows = new[begin : begin + ROWS_A_COMMIT]
        # Each commit is whole, so a run that is stopped goes on where it was.
        found = client.embed([p.text for p in rows], truncation="right")
        store.put(zip(rows, found.vectors), info.version)
        done += len(rows)
        rate = done / (time.monotonic() - start)
        print(f"\r{done:,} of {len(new):,}, {rate:.0f} a second", end="", file=sys.stderr, flush=True)
    if new:
        print(file=sys.stderr)
    print(f"{len(new)} embedded, {old} unchanged, {store.count()} in the index")
    return 0


def find(client: Client, store: Store, args: argparse.Namespace) -> int:
    for found in store.search(client.embed([args.query])[0], args.k):
        print(f"{found.similarity:.3f}  {found.name:<32} {found.synopsis}")
    return 0


def serve(client: Client, store: Store, args: argparse.Namespace) -> int:
    web.serve(args.listen, lambda query, limit: store.search(client.embed([query])[0], limit))
    return 0


def judge(client: Client, store: Store, args: argparse.Namespace) -> int:
    questions = json.loads(args.questions.read_text())
    hits = 0
    for question, vector in zip(questions["questions"], client.embed([q["query"] for q in questions["questions"]])):
        names = [found.name for found in store.search(vector, 10)]
        rank = names.index(question["package"]) + 1 if question["package"] in names else 0
        hits += rank > 0
        print(f"{rank or '-':>3}  {question['package']:<40} {question['query']}")
    print(f"{hits} of {len(questions['questions'])} among the first ten; {questions['teacher']['model']}: {questions['teacher']['hits']}")
    return 0 if hits >= 0.9 * questions["teacher"]["hits"] else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="the LION server")
    parser.add_argument("--tls_ca", help="PEM file of the authorities that signed it; turns TLS on")
    parser.add_argument("--model", default="", help="empty = the server's first")
    parser.add_argument("--database", default="", help="a PostgreSQL URI; empty = a private server under --data")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("build/semantic-search"))
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("index")
    command.add_argument("--jsonl", type=pathlib.Path, default=HELD_OUT)
    command.add_argument("--apt", action="store_true", help="all packages that this machine's apt knows")
    command.add_argument("--limit", type=int, default=0, help="stop after so many; 0 = all")
    command = commands.add_parser("find")
    command.add_argument("query")
    command.add_argument("-k", type=int, default=10)
    command = commands.add_parser("serve")
    command.add_argument("--listen", default="127.0.0.1:8080")
    command = commands.add_parser("judge")
    command.add_argument("--questions", type=pathlib.Path, default=HERE / "questions.json")
    args = parser.parse_args()
    run = {"index": index, "find": find, "serve": serve, "judge": judge}[args.command]
    try:
        with Client(args.target, model=args.model, tls_ca=args.tls_ca, api_key=os.environ.get("LION_API_KEY")) as client:
            with Store(args.database, args.data) as store:
                return run(client, store, args)
    except LionError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
