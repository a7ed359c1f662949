# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""grpcurl and ghz against text-embeddings-inference's wire, by its .proto and by reflection; equal to Embed's vectors."""

import json
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest
from conftest import ROOT, TEXTS

TOOLS = pathlib.Path(os.environ["LION_WIRE_TOOLS"])  # grpcurl and ghz
BY_PROTO = ["-import-path", str(ROOT / "proto"), "-proto", "tei/v1/tei.proto"]


def snake_keys(fields):
    """grpcurl writes computeTokens by a .proto and compute_tokens by reflection."""
    return {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), key): value for key, value in fields.items()}


@pytest.fixture(params=["proto", "reflection"])
def grpcurl(request, server):
    """grpcurl(method, *requests): (code's number, the answers)."""

    def run(method, *requests):
        command = [TOOLS / "grpcurl", "-plaintext", *(BY_PROTO if request.param == "proto" else []), "-d", "@", server.grpc, f"tei.v1.{method}"]
        done = subprocess.run(command, input="\n".join(map(json.dumps, requests)), capture_output=True, text=True)
        answers, decoder, text = [], json.JSONDecoder(object_hook=snake_keys), done.stdout.strip()
        while text:
            answer, end = decoder.raw_decode(text)
            answers.append(answer)
            text = text[end:].strip()
        return max(done.returncode - 64, 0), answers  # 64 + the code, where the call failed

    return run


def test_info(grpcurl, expected):
    code, [info] = grpcurl("Info/Info", {})
    assert code == 0
    assert info["model_id"] == "demo" and info["model_sha"] == expected.model.version
    assert info["max_input_length"] == expected.model.max_sequence_tokens
    assert "model_type" not in info  # MODEL_TYPE_EMBEDDING is 0


def test_embed(grpcurl, expected):
    for text, wanted, ids in zip(TEXTS, expected.vectors, expected.ids, strict=True):
        code, [answer] = grpcurl("Embed/Embed", {"inputs": text})
        assert code == 0
        assert (np.array(answer["embeddings"], np.float32) == wanted).all()
        assert answer["metadata"]["compute_tokens"] == len(ids)


def test_embed_stream(grpcurl, expected):
    code, answers = grpcurl("Embed/EmbedStream", *({"inputs": text} for text in TEXTS))
    assert code == 0
    assert (np.array([a["embeddings"] for a in answers], np.float32) == expected.vectors).all()


def test_embed_all(grpcurl, expected):
    code, [answer] = grpcurl("Embed/EmbedAll", {"inputs": TEXTS[0]})
    assert code == 0 and len(answer["token_embeddings"]) == len(expected.ids[0])


def test_predict(grpcurl, expected):
    code, [answer] = grpcurl("Predict/Predict", {"inputs": TEXTS[0]})
    assert code == 0
    assert {p["label"]: np.float32(p.get("score", 0)) for p in answer["predictions"]} == {k: np.float32(v) for k, v in expected.scores[0].items()}
    code, [pair] = grpcurl("Predict/PredictPair", {"inputs": [TEXTS[0], TEXTS[1]]})
    assert code == 0 and len(pair["predictions"]) == len(expected.model.labels)


def test_tokenize(grpcurl, expected):
    code, [answer] = grpcurl("Tokenize/Tokenize", {"inputs": TEXTS[2], "add_special_tokens": True})
    assert code == 0 and [t.get("id", 0) for t in answer["tokens"]] == expected.ids[2]
    code, [bare] = grpcurl("Tokenize/Tokenize", {"inputs": TEXTS[2]})
    assert code == 0 and [t["id"] for t in bare["tokens"]] == expected.ids[2][1:-1]


@pytest.mark.parametrize("method", ["Rerank/Rerank", "Embed/EmbedSparse", "Tokenize/Decode"])
def test_what_does_not_apply(grpcurl, method):
    assert grpcurl(method, {}) == (12, [])


def test_reflection_lists_every_wire(server):
    listed = subprocess.run([TOOLS / "grpcurl", "-plaintext", server.grpc, "list"], capture_output=True, text=True, check=True).stdout.split()
    assert {"lion.v1.EncoderService", "inference.GRPCInferenceService", "grpc.health.v1.Health", "tei.v1.Info", "tei.v1.Embed", "tei.v1.Predict",
            "tei.v1.Rerank", "tei.v1.Tokenize"} <= set(listed)


@pytest.fixture(scope="module")
def protoset(tmp_path_factory):
    """TEI's .proto, compiled: ghz's own parser refuses proto3's optional."""
    from grpc_tools import protoc

    path = tmp_path_factory.mktemp("ghz") / "tei.protoset"
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--descriptor_set_out={path}", "--include_imports", "tei/v1/tei.proto"]) == 0
    return path


@pytest.mark.parametrize("by", ["proto", "reflection"])
@pytest.mark.parametrize("method", ["Info.Info", "Embed.Embed", "Embed.EmbedStream", "Predict.Predict"])
def test_ghz(server, protoset, method, by):
    command = [TOOLS / "ghz", "--insecure", f"--call=tei.v1.{method}", "-n", "100", "-c", "4", "-O", "json", "-d",
               json.dumps({} if method == "Info.Info" else {"inputs": TEXTS[0]}), *([f"--protoset={protoset}"] if by == "proto" else []), server.grpc]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert report["statusCodeDistribution"] == {"OK": 100} and report["count"] == 100
