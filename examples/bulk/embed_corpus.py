#!/usr/bin/env python3
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Embeds a large corpus, Parquet or JSON lines, through a fleet of LION servers, with Ray Data.

    embed_corpus.py --target ipv4:10.0.0.1:50051,10.0.0.2:50051 --input corpus/ --output vectors/ --workers 8

The corpus is cut into parts of --rows_a_part rows, the same parts every time. A worker (a Ray actor) embeds a part and writes
it as one Parquet file, by rename, so a part is there whole or not at all. That is all the bookkeeping there is: a worker
that dies is replaced and its part done again; a run that was stopped begins with the parts that are missing. No row is lost
or doubled. Columns written: id, embedding (a list of float32), error (null for a good row; its embedding is null else).

--workers 0 is this process alone, without Ray: what one client gets through.
"""

import argparse
import json
import logging
import os
import pathlib
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lion_serve import Client, LionError


# ---------------------------------------------------------------------------------------------------------------- parts


def plan(paths, rows_a_part):
    """The parts of the corpus: {"name", "file", "start" (row), "rows", "offset" (byte, of JSON lines)}, in order."""
    parts = []
    for number, path in enumerate(paths):
        if path.suffix == ".parquet":
            num_rows = pq.ParquetFile(path).metadata.num_rows
            cuts = [(start, min(rows_a_part, num_rows - start), 0) for start in range(0, num_rows, rows_a_part)]
        else:
            cuts, offset, first, count, start = [], 0, 0, 0, 0
            with open(path, "rb") as lines:
                for line in lines:
                    offset += len(line)
                    count += 1
                    if count == rows_a_part:
                        cuts.append((start, count, first))
                        first, start, count = offset, start + count, 0
            if count:
                cuts.append((start, count, first))
        for start, rows, first in cuts:
            parts.append({"name": f"part-{number:05}-{start:010}.parquet", "file": str(path), "start": start, "rows": rows, "offset": first})
    return parts


def read(part, id_column, text_column):
    """(ids, texts) of a part. Without an id column, FILE:ROW."""
    if part["file"].endswith(".parquet"):
        file, columns = pq.ParquetFile(part["file"]), [c for c in (id_column, text_column) if c]
        groups, begin = [], None
        at = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if at < part["start"] + part["rows"] and at + size > part["start"]:
                begin = at if begin is None else begin
                groups.append(group)
            at += size
        rows = file.read_row_groups(groups, columns=columns).slice(part["start"] - begin, part["rows"]).to_pylist()
    else:
        with open(part["file"], "rb") as lines:
            lines.seek(part["offset"])
            rows = [json.loads(next(lines)) for _ in range(part["rows"])]
    name = pathlib.Path(part["file"]).name
    ids = [str(row[id_column]) if id_column else f"{name}:{part['start'] + i}" for i, row in enumerate(rows)]
    return ids, [row[text_column] for row in rows]


def write(path, ids, found):
    """One Parquet file, whole or not at all."""
    errors = {error.index: str(error) for error in found.errors}
    good = np.array([i not in errors for i in range(len(ids))])
    width = found.vectors.shape[1]
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(found.vectors.ravel(), pa.float32()), width, mask=pa.array(~good)) if width else pa.nulls(len(ids))
    table = pa.table({"id": pa.array(ids), "embedding": embeddings, "error": pa.array([errors.get(i) for i in range(len(ids))], pa.string())})
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table.replace_schema_metadata({"model": found.model, "model_version": found.model_version}), unfinished)
    os.replace(unfinished, path)


# -------------------------------------------------------------------------------------------------------------- workers


class Worker:
    """Embeds parts. Made once in each of Ray's actors; options are the program's own."""

    def __init__(self, options):
        self._options = options
        self._client = Client(options["target"], model=options["model"], tls_ca=options["tls_ca"], api_key=options["api_key"],
                              batch_size=options["batch_size"], max_in_flight=options["in_flight"], deadline=options["deadline"])

    def embed(self, part):
        ids, texts = read(part, self._options["id"], self._options["text"])
        found = self._client.embed(texts, truncation="right", vector_type=self._options["vector_type"], on_error="return")
        write(pathlib.Path(self._options["output"]) / part["name"], ids, found)
        return {"name": part["name"], "rows": len(ids), "failed": len(found.errors), "pid": os.getpid()}

    def __call__(self, batch):
        """Ray's: a column of parts in, a row for each out."""
        done = [self.embed(json.loads(part)) for part in batch["part"]]
        return {key: np.array([d[key] for d in done]) for key in done[0]}


def run_here(parts, options):
    worker = Worker(options)
    for part in parts:
        yield worker.embed(part)


def run_on_ray(parts, options, workers, address):
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Actors only wait for answers, so a machine holds more of them than it has cores.
    ray.init(address=address or None, num_cpus=None if address else max(4, 2 * workers), include_dashboard=False, logging_level="error")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    items = ray.data.from_items([{"part": json.dumps(part)} for part in parts], override_num_blocks=len(parts))
    done = items.map_batches(Worker, fn_constructor_args=(options,), batch_size=1, num_cpus=0.5,
                             compute=ray.data.ActorPoolStrategy(size=workers))  # which replaces an actor that dies, and tries its part again
    yield from done.iter_rows()


# ----------------------------------------------------------------------------------------------------------------- main


def same_plan(output, wanted):
    """Keeps what this output is made of beside it; another corpus, cut or column in the same folder is an error."""
    kept = output / "_plan.json"
    if not kept.exists():
        unfinished = output / f"._plan.{os.getpid()}"
        unfinished.write_text(json.dumps(wanted, indent=1))
        os.replace(unfinished, kept)
    elif json.loads(kept.read_text()) != wanted:
        sys.exit(f"{kept}: this folder holds the vectors of another corpus, or of other options; name an empty one")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="one server, or any gRPC target that names several")
    parser.add_argument("--input", type=pathlib.Path, required=True, help="a .parquet or .jsonl file, or a folder of them")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--text", default="text", help="the column to embed")
    parser.add_argument("--id", default="", help="the column that names a row; empty = FILE:ROW")
    parser.add_argument("--rows_a_part", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=2, help="Ray actors; 0 = this process alone")
    parser.add_argument("--ray_address", default="", help="a running Ray cluster; empty = one of our own on this machine")
    parser.add_argument("--model", default="")
    parser.add_argument("--vector_type", default="float32_bytes")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--in_flight", type=int, default=4, help="calls that each worker has out at a time")
    parser.add_argument("--deadline", type=float, default=120)
    parser.add_argument("--tls_ca")
    args = parser.parse_args()

    folder = args.input.is_dir()
    paths = sorted(p for p in args.input.iterdir() if p.suffix in (".parquet", ".jsonl")) if folder else [args.input]
    if not paths:
        sys.exit(f"{args.input}: no .parquet or .jsonl file in it")
    options = {k: v for k, v in vars(args).items() if k not in ("input", "workers", "ray_address", "rows_a_part")}
    options |= {"output": str(args.output.resolve()), "api_key": os.environ.get("LION_API_KEY")}
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with Client(args.target, tls_ca=args.tls_ca, api_key=options["api_key"]) as client:
            model = next(m for m in client.list_models() if args.model in ("", m.name))
        parts = plan([p.resolve() for p in paths], args.rows_a_part)
        same_plan(args.output, {"parts": parts, "text": args.text, "id": args.id, "model": model.version, "vector_type": args.vector_type})
        missing = [part for part in parts if not (args.output / part["name"]).exists()]
        print(f"{len(parts)} parts, {len(parts) - len(missing)} there already", flush=True)
        start, rows, failed = time.monotonic(), 0, 0
        if missing:
            done = run_on_ray(missing, options, args.workers, args.ray_address) if args.workers else run_here(missing, options)
            for part in done:
                rows, failed = rows + int(part["rows"]), failed + int(part["failed"])
                rate = rows / (time.monotonic() - start)
                print(f"{part['name']} by {part['pid']}: {rows} rows, {rate:.0f} a second", flush=True)
    except LionError as error:
        sys.exit(str(error))
    print(f"{rows} rows embedded, {failed} of them failed; in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
