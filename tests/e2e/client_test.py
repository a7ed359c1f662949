# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion-client against a real server: every source of inputs, every format of results, exit codes, bench."""

import csv
import io
import json
import subprocess

import numpy as np
import pytest

from harness import ORACLE, ROOT, Server, assert_close, pb, text_input, values

CLIENT = ROOT / "build/release/bin/lion-client"
TEXTS = ["the lion", "", "Serving é日本語", 'a "quoted", text', "x"]


def client(server, *args, stdin="", code=0):
    """Runs it and returns its standard output."""
    run = subprocess.run([str(CLIENT), f"--target={server.grpc}", *map(str, args)], input=stdin.encode(), capture_output=True)
    assert run.returncode == code, run.stderr.decode()
    return run.stdout.decode()


@pytest.fixture(scope="module")
def expected(server):
    results = server.call("Embed", pb.EmbedRequest(model="text", inputs=[text_input(t) for t in TEXTS])).results
    return [values(r.vectors[0]) for r in results], [r.token_count for r in results]


def check_rows(output, expected):
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(TEXTS)))
    for row, vector, count in zip(rows, *expected):
        assert (row["token_count"], row["mode"], row["truncated"]) == (count, "parallel", False)
        assert (np.array(row["vector"], np.float32) == vector).all()


def test_inputs_from_everywhere(server, expected, tmp_path):
    flags = ("embed", "--model=text", "--format=jsonl")
    check_rows(client(server, *flags, "--", *TEXTS), expected)
    check_rows(client(server, *flags, stdin="\n".join(TEXTS) + "\n"), expected)
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS) + "\n")
    check_rows(client(server, *flags, f"--file={tmp_path / 'lines.txt'}", "--batch_size=2", "--in_flight=3"), expected)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": 1, "doc": {"body": t}}) + "\n" for t in TEXTS))
    check_rows(client(server, *flags, f"--file={tmp_path / 'rows.jsonl'}", "--field=doc.body"), expected)
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["n", "body"], *enumerate(TEXTS)])
    check_rows(client(server, *flags, f"--file={tmp_path / 'rows.csv'}", "--column=body"), expected)
    whole = json.loads(client(server, *flags, f"--file={tmp_path / 'lines.txt'}", "--whole_file"))
    text = (tmp_path / "lines.txt").read_text()
    assert whole["token_count"] == server.call("Embed", pb.EmbedRequest(model="text", inputs=[text_input(text)])).results[0].token_count


def test_results_in_every_format(server, expected, tmp_path):
    flags = ("embed", "--model=text")
    client(server, *flags, f"--output={tmp_path / 'v.npy'}", "--", *TEXTS)
    assert (np.load(tmp_path / "v.npy") == np.array(expected[0])).all()
    client(server, *flags, f"--output={tmp_path / 'v.jsonl'}", "--", *TEXTS)
    check_rows((tmp_path / "v.jsonl").read_text(), expected)
    rows = list(csv.DictReader(io.StringIO(client(server, *flags, "--format=csv", "--", *TEXTS))))
    assert [int(r["token_count"]) for r in rows] == expected[1]
    for row, vector in zip(rows, expected[0]):
        numbers = [float(v) for k, v in row.items() if k not in ("index", "token_count", "mode", "truncated", "error")]
        assert_close(numbers, vector, 1e-6)


@pytest.mark.parametrize("kind", ["float32_bytes", "float16_bytes", "int8_bytes"])
def test_vector_types(server, expected, kind):
    output = client(server, "embed", "--model=text", "--format=jsonl", f"--vector_type={kind}", "--", *TEXTS)
    for line, vector in zip(output.splitlines(), expected[0]):
        error = np.abs(np.array(json.loads(line)["vector"], np.float32) - vector).max()
        assert error <= {"float32_bytes": 0, "float16_bytes": 2**-11 * np.abs(vector).max(), "int8_bytes": 0.51 * np.abs(vector).max() / 127}[kind]


def test_many_rows_keep_their_order(server, tmp_path):
    ids = [[i % 211] * (1 + i % 90) for i in range(3000)]
    (tmp_path / "ids.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in ids))
    output = client(server, "embed", "--ids", "--dimensions=2", "--format=jsonl", f"--file={tmp_path / 'ids.txt'}")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [r["index"] for r in rows] == list(range(3000))
    assert [r["token_count"] for r in rows] == [len(row) for row in ids]


def test_a_bad_row_is_reported_and_the_rest_goes_on(server):
    output = client(server, "embed", "--ids", "--format=jsonl", "1,2", "211", "3", code=1)
    rows = [json.loads(line) for line in output.splitlines()]
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["error"]["code"] == "INVALID_ARGUMENT" and "211" in rows[1]["error"]["message"]


def test_classify_and_tokenize(server):
    rows = [json.loads(line) for line in client(server, "classify", "--model=text", "--top_k=2", "--format=jsonl", "the lion", "x").splitlines()]
    want = server.call("Classify", pb.ClassifyRequest(model="text", top_k=2, inputs=[text_input("the lion"), text_input("x")])).results
    assert [[(s["label"], s["index"]) for s in r["scores"]] for r in rows] == [[(s.label, s.index) for s in r.scores] for r in want]
    row = json.loads(client(server, "tokenize", "--model=text", "--format=jsonl", "the lion"))
    assert row["tokens"] == ["[CLS]", "the", "lion", "[SEP]"]
    assert row["bytes"] == [[0, 0], [0, 3], [4, 8], [0, 0]]


def test_models(server):
    shown = [json.loads(line)["name"] for line in client(server, "models", "--format=jsonl").splitlines()]
    assert shown == server.models.split(",")


def test_health_is_for_probes(server):
    assert client(server, "health").strip() == client(server, "health", "lion.v1.EncoderService").strip() == "SERVING"
    client(server, "health", "no.such.Service", code=1)
    with Server([ORACLE / "text-lion-s-ln"], "--parallel_max_tokens=64", "--max_batch_tokens=64") as other:
        pass
    client(other, "health", code=1)  # nobody listens there any more


@pytest.mark.parametrize("args", [["no_such_command"], ["embed", "--no_such_flag"], ["embed", "--mode=quick", "x"], ["health", "a", "b"], ["embed", "--top_k=2", "x"]])
def test_a_wrong_command_line_exits_2(server, args):
    client(server, *args, code=2)


def test_bench(server):
    shown = json.loads(client(server, "bench", "--requests=50", "--concurrency=4", "--tokens=16,100", "--vocab=200", "--json"))
    text = json.dumps(shown)
    assert "50" in text and "latency" in text.lower()
    client(server, "bench", "--rate=200", "--requests=20", "--tokens=8", "--vocab=200", "--json")
    client(server, "bench", "--requests=3", "--model=nobody", "--tokens=8", code=1)
