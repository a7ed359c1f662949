# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What `./dev demo` shows: a server on the demo model, real texts embedded and classified by lion-client, the metrics of it.

    python3 tools/demo.py --server build/release/bin/lion-server --client build/release/bin/lion-client --demo demo

Starts the server on free ports of 127.0.0.1 and ends it by its pid, also on Ctrl-C. Standard library only.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

BOLD, FAINT, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text):
    print(f"\n{BOLD}==> {text}{PLAIN}", flush=True)


class Demo:
    def __init__(self, args):
        self.server, self.client, self.demo = args.server, args.client, args.demo
        self.texts = args.demo / "texts"
        self.process = self.grpc = self.metrics = None

    # ------------------------------------------------------------------------------------------------------- the server

    def start(self):
        command = [str(self.server), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", f"demo={self.demo / 'model'}"]
        say("Starting the server on the demo model (LION-S, 4 layers x 256), loading, measuring, warming up")
        print(f"{FAINT}$ {' '.join(command)}{PLAIN}", flush=True)
        # A session of its own: a Ctrl-C here must reach it as our one SIGTERM, not as a signal before that.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started = time.monotonic()
        for line in self.process.stderr:
            print(f"{FAINT}  {line.rstrip()}{PLAIN}", flush=True)
            if ready := re.search(r"ready grpc=(\S+) metrics=(\S+)", line):
                self.grpc, self.metrics = ready.groups()
                print(f"ready after {time.monotonic() - started:.1f} s: gRPC on {self.grpc}, metrics on http://{self.metrics}/metrics")
                return
        raise RuntimeError(f"the server ended before it was ready (exit code {self.process.wait()}); its last lines are above")

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            _, said = self.process.communicate(timeout=60)
            print("".join(f"{FAINT}  {line}{PLAIN}\n" for line in said.splitlines()) + f"it ended with exit code {self.process.returncode}")
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("the server did not end within a minute of SIGTERM and was killed") from None

    # ------------------------------------------------------------------------------------------------------- the client

    def ask(self, *args):
        """lion-client's answer, one JSON object a line, in the order of the inputs."""
        command = [str(self.client), *args, f"--target={self.grpc}", "--format=jsonl"]
        print(f"{FAINT}$ {' '.join(command)}{PLAIN}", flush=True)
        run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"lion-client ended with exit code {run.returncode}")
        return [json.loads(line) for line in run.stdout.splitlines()]

    def embed(self):
        sentences = [s for s in (self.texts / "sentences.txt").read_text().splitlines() if s]
        say(f"Embedding {len(sentences)} sentences: which are nearest to each other?")
        rows = self.ask("embed", f"--file={self.texts / 'sentences.txt'}")
        vectors = [row["vector"] for row in rows]
        for i, sentence in enumerate(sentences):
            scores = [(sum(a * b for a, b in zip(vectors[i], v)), j) for j, v in enumerate(vectors) if j != i]
            score, nearest = max(scores)
            print(f"  {sentence}\n    {score:.2f}  {sentences[nearest]}")
        print(f"{len(vectors[0])} numbers each, length 1: their dot product is their similarity.")

    def classify(self):
        packages = [json.loads(line) for line in (self.texts / "packages.jsonl").read_text().splitlines()]
        say(f"Classifying {len(packages)} Debian packages that it was not trained on, from their descriptions")
        num_labels = len(self.model()["labels"])
        rows = self.ask("classify", "--top_k=2", f"--file={self.texts / 'packages.jsonl'}")
        right = 0
        print(f"  {'package':<28}{'predicted':<26}{'second':<26}true section")
        for package, row in zip(packages, rows):
            first, second = (f"{s['label']} {s['score']:.2f}" for s in row["scores"][:2])
            hit = row["scores"][0]["label"] == package["section"]
            right += hit
            print(f"  {package['name']:<28}{first:<26}{second:<26}{package['section']}{'' if hit else '   (missed)'}")
        print(f"{right} of {len(packages)} right, out of {num_labels} sections.")

    def model(self):
        """What the server says of the model."""
        return self.ask("models")[0]

    def lengths(self):
        say("Short texts run as full attention, long ones as chunks with a state between them: the same numbers, at linear cost")
        print(f"Measured on this machine at start-up: full attention up to {self.model()['parallel_max_tokens']} tokens, chunks beyond.")
        for name in ("sentences.txt", "long.txt"):
            rows = self.ask("embed", f"--file={self.texts / name}", *(["--whole_file"] if name == "long.txt" else []))
            for row in rows[:3]:
                print(f"  {row['token_count']:>6} tokens   {row['mode']}")
            if len(rows) > 3:
                print(f"  ... and {len(rows) - 3} more, all {' and '.join(sorted({r['mode'] for r in rows}))}")

    # ------------------------------------------------------------------------------------------------------ the metrics

    def show_metrics(self):
        say("What this did to the metrics (those that are not zero; histograms as count and sum)")
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        group = None
        for line in lines:
            match = re.fullmatch(r"(lion_\w+?)(_bucket|_sum|_count)?(\{.*\})? (\S+)", line)
            if not match or match[2] == "_bucket" or float(match[4]) == 0:
                continue
            if match[1] != group:
                group = match[1]
                print(f"  {BOLD}{group}{PLAIN}")
            print(f"    {(match[2] or '').lstrip('_'):<6}{match[3] or '':<60} {float(match[4]):g}")

    def explain(self):
        say("That was it. What to try next")
        print(f"""  ./dev serve                             the same server, on 127.0.0.1:50051, until Ctrl-C; then, in another terminal:
    {self.client} embed "any text of yours"
    {self.client} classify "a tool that converts video files"
    {self.client} bench --help
  ./dev serve MODEL_DIR                   a model of your own (Hugging Face layout)
  ./dev test                              every test
  README.md, docs/api.md                  the wire, every field and error; docs/operations.md has every flag and metric""")

    def run(self):
        try:
            self.start()
            self.embed()
            self.classify()
            self.lengths()
            self.show_metrics()
            say("Stopping the server (SIGTERM: it finishes what it has accepted)")
        finally:
            self.stop()
        self.explain()


def main():
    parser = argparse.ArgumentParser()
    for name in ("server", "client", "demo"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    # A plain `kill` ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        Demo(parser.parse_args()).run()
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (RuntimeError, OSError) as error:
        print(f"./dev demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
