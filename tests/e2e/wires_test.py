# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The wires of others by their own .proto files: every method answers as lion.v1 does, with the same keys, metrics and drain.

What real clients of those wires make of it is tested in tests/clients/wires.
"""

import hashlib

import grpc
import numpy as np
import pytest

from harness import HANG_SECONDS, Oracle, Server, pb, refused, text_input, values
from wires import infer, oip, oip_grpc, tei, tei_grpc

FLAGS = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256")
TEXTS = ["the lion is in", "serve", "", "an é of 日本語 and 🙂"]


@pytest.fixture(scope="module")
def server(made):
    with Server([f"text={made['text']}"], *FLAGS) as running:
        yield running


@pytest.fixture(scope="module")
def vectors(server):
    return [values(r.vectors[0]) for r in server.call("Embed", pb.EmbedRequest(inputs=map(text_input, TEXTS), normalize=True)).results]


def tei_stub(server, service):
    return getattr(tei_grpc, f"{service}Stub")(server.channel())


def text_request(texts, **fields):
    tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(t.encode() for t in texts)
    return oip.ModelInferRequest(inputs=[tensor], **fields)


def test_tei_embeds_and_streams(server, vectors):
    stub = tei_stub(server, "Embed")
    for text, wanted in zip(TEXTS, vectors, strict=True):
        answer = stub.Embed(tei.EmbedRequest(inputs=text), timeout=HANG_SECONDS)  # normalised unless told
        assert (np.array(answer.embeddings, np.float32) == wanted).all() and answer.metadata.compute_chars == len(text)
    answers = list(stub.EmbedStream((tei.EmbedRequest(inputs=t) for t in TEXTS * 20), timeout=HANG_SECONDS))
    assert (np.array([a.embeddings for a in answers], np.float32) == vectors * 20).all()


def test_tei_predicts_and_tokenizes(server):
    wanted = server.call("Classify", pb.ClassifyRequest(inputs=[text_input(TEXTS[0])])).results[0]
    answer = tei_stub(server, "Predict").Predict(tei.PredictRequest(inputs=TEXTS[0]), timeout=HANG_SECONDS)
    assert [(p.label, p.score) for p in answer.predictions] == [(s.label, s.score) for s in wanted.scores]
    ids = server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(TEXTS[3])])).results[0].ids
    tokens = tei_stub(server, "Tokenize").Tokenize(tei.EncodeRequest(inputs=TEXTS[3], add_special_tokens=True), timeout=HANG_SECONDS).tokens
    assert [t.id for t in tokens] == list(ids) and [t.special for t in tokens] == [True] + [False] * (len(ids) - 2) + [True]
    data = TEXTS[3].encode()
    assert all(t.text == data[t.start:t.stop].decode() for t in tokens[1:-1])
    assert tei_stub(server, "Info").Info(tei.InfoRequest(), timeout=HANG_SECONDS).model_id == "text"


def test_infer_on_text_and_on_padded_ids(server, vectors):
    oracle = Oracle("text-lion-s-ln")  # the model under another name
    answer = infer(server, text_request(TEXTS, parameters={"normalize": oip.InferParameter(bool_param=True)}))
    assert (np.array(answer.outputs[0].contents.fp32_contents, np.float32).reshape(answer.outputs[0].shape) == vectors).all()

    rows, width = len(oracle.ids), max(oracle.lengths)
    padded = {name: np.zeros((rows, width), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for i, length in enumerate(oracle.lengths):
        for name, row in (("input_ids", oracle.ids[i]), ("attention_mask", 1), ("token_type_ids", oracle.type_ids[i])):
            padded[name][i, :length] = row
    tensors = [oip.ModelInferRequest.InferInputTensor(name=n, datatype="INT64", shape=a.shape) for n, a in padded.items()]
    raw = [a.astype("<i8").tobytes() for a in padded.values()]
    scores = oip.ModelInferRequest.InferRequestedOutputTensor(name="scores")
    request = oip.ModelInferRequest(inputs=tensors, raw_input_contents=raw, outputs=[scores], parameters={"raw_scores": oip.InferParameter(bool_param=True)})
    answer = infer(server, request)
    assert np.abs(np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(answer.outputs[0].shape) - oracle.logits).max() < 1e-4


def test_what_is_wrong_is_said_in_their_words(server):
    with refused(grpc.StatusCode.NOT_FOUND, "this server has text", begins="model_name: no model 'nobody'"):
        infer(server, text_request(["a"], model_name="nobody"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, begins="dimensions: 100 is above"):
        tei_stub(server, "Embed").Embed(tei.EmbedRequest(inputs="a", dimensions=100), timeout=HANG_SECONDS)
    with refused(grpc.StatusCode.UNIMPLEMENTED, begins="Rerank: "):
        tei_stub(server, "Rerank").Rerank(tei.RerankRequest(query="a"), timeout=HANG_SECONDS)
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        tei_stub(server, "Rerank").RerankStream(iter([tei.RerankStreamRequest(query="a")]), timeout=HANG_SECONDS)


def test_each_method_is_counted_by_its_name(server):
    def count(rpc, model, code):
        return server.metrics().get(f'lion_rpc_requests_total{{code="{code}",model="{model}",rpc="{rpc}"}}', 0)

    before = count("tei.EmbedAll", "text", "OK"), count("kserve.ModelMetadata", "unknown", "NOT_FOUND")
    tei_stub(server, "Embed").EmbedAll(tei.EmbedAllRequest(inputs="a"), timeout=HANG_SECONDS)
    with refused(grpc.StatusCode.NOT_FOUND):
        oip_grpc.GRPCInferenceServiceStub(server.channel()).ModelMetadata(oip.ModelMetadataRequest(name="nobody"), timeout=HANG_SECONDS)
    assert (count("tei.EmbedAll", "text", "OK"), count("kserve.ModelMetadata", "unknown", "NOT_FOUND")) == (before[0] + 1, before[1] + 1)


def test_keys_are_asked_for(made, tmp_path):
    (tmp_path / "keys").write_text(f"ann {hashlib.sha256(b'sesame').hexdigest()}\n")
    with Server([f"text={made['text']}"], *FLAGS, f"--api_key_file={tmp_path / 'keys'}") as server:
        for call in (lambda **o: infer(server, text_request(["a"]), **o), lambda **o: tei_stub(server, "Info").Info(tei.InfoRequest(), timeout=HANG_SECONDS, **o)):
            with refused(grpc.StatusCode.UNAUTHENTICATED):
                call()
            call(metadata=[("authorization", "Bearer sesame")])
