# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tritonclient, as it is on PyPI: text, ids and pictures, one call and a stream, metadata, readiness; equal to Embed's vectors."""

import queue

import numpy as np
import pytest
import tritonclient.grpc as triton
from conftest import TEXTS
from harness import HANG_SECONDS


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.grpc) as made:
        yield made


def tensor(name, array, datatype):
    given = triton.InferInput(name, array.shape, datatype)
    given.set_data_from_numpy(array)
    return given


def text_tensor(texts):
    return tensor("text", np.array([t.encode() for t in texts], dtype=np.object_), "BYTES")


def padded(rows):
    width = max(map(len, rows))
    ids = np.array([r + [0] * (width - len(r)) for r in rows], np.int64)
    mask = np.array([[1] * len(r) + [0] * (width - len(r)) for r in rows], np.int64)
    return [tensor("input_ids", ids, "INT64"), tensor("attention_mask", mask, "INT64")]


def test_it_is_there(client, expected):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("demo") and client.is_model_ready("demo", expected.model.version) and not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "lion-serve"
    metadata = client.get_model_metadata("demo")
    assert list(metadata.versions) == [expected.model.version]
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
        ("text", "BYTES", [-1]), ("input_ids", "INT64", [-1, -1]), ("attention_mask", "INT64", [-1, -1]), ("token_type_ids", "INT64", [-1, -1])]
    assert [(o.name, o.datatype, list(o.shape)) for o in metadata.outputs] == [
        ("embedding", "FP32", [-1, expected.model.embedding_dimensions]), ("scores", "FP32", [-1, len(expected.model.labels)])]
    assert [(m.name, m.version, m.state) for m in client.get_model_repository_index().models] == [("demo", expected.model.version, "READY")]


def test_text_gives_embeds_vectors(client, expected):
    result = client.infer("demo", [text_tensor(TEXTS)], request_id="42")
    assert result.get_response().id == "42"
    assert (result.as_numpy("embedding") == expected.vectors).all()


def test_pictures_give_embeds_vectors_and_classifies_scores(vision, pictures):
    client = triton.InferenceServerClient(vision.grpc)
    metadata = client.get_model_metadata("vision")
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("image", "BYTES", [-1]), ("pixels", "FP32", [-1, 3, -1, -1])]
    files = tensor("image", np.array(pictures.files, dtype=np.object_), "BYTES")
    assert (client.infer("vision", [files]).as_numpy("embedding") == np.array(pictures.vectors)).all()
    scores = client.infer("vision", [files], outputs=[triton.InferRequestedOutput("scores")]).as_numpy("scores")
    assert (scores == np.array(pictures.scores, np.float32)).all()
    pixels = client.infer("vision", [tensor("pixels", pictures.pixels, "FP32")]).as_numpy("embedding")
    np.testing.assert_allclose(pixels, pictures.vectors, atol=1e-5)
    with pytest.raises(triton.InferenceServerException, match=r"image\[0\]: is neither JPEG, PNG nor WebP"):
        client.infer("vision", [tensor("image", np.array([b"GIF89a"], dtype=np.object_), "BYTES")])
    client.close()


def test_padded_ids_give_embeds_vectors(client, expected):
    result = client.infer("demo", padded(expected.ids))
    assert (result.as_numpy("embedding") == expected.vectors).all()


def test_scores_and_parameters(client, expected):
    scores = client.infer("demo", [text_tensor(TEXTS)], outputs=[triton.InferRequestedOutput("scores")]).as_numpy("scores")
    for row, wanted in zip(scores, expected.scores, strict=True):
        assert dict(zip(expected.model.labels, row.tolist(), strict=True)) == wanted
    cut = client.infer("demo", [text_tensor(TEXTS)], parameters={"dimensions": 16, "normalize": False}).as_numpy("embedding")
    assert cut.shape == (len(TEXTS), 16)
    for row, wanted in zip(cut, expected.vectors, strict=True):
        assert row @ wanted[:16] / np.linalg.norm(row) / np.linalg.norm(wanted[:16]) == pytest.approx(1, abs=1e-5)


def test_errors_are_tritons_to_show(client):
    with pytest.raises(triton.InferenceServerException, match=r"model_name: no model 'nobody'; this server has demo"):
        client.infer("nobody", [text_tensor(["a"])])
    with pytest.raises(triton.InferenceServerException, match=r"parameters: 'normalise' is none of"):
        client.infer("demo", [text_tensor(["a"])], parameters={"normalise": True})


def test_a_stream_answers_in_order(server, expected):
    answers = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for i, text in enumerate(TEXTS):
            client.async_stream_infer("demo", [text_tensor([text])], request_id=str(i))
        client.async_stream_infer("nobody", [text_tensor(["a"])])
        client.async_stream_infer("demo", [text_tensor(TEXTS)])
        for i, wanted in enumerate(expected.vectors):
            result, error = answers.get(timeout=HANG_SECONDS)
            assert error is None and result.get_response().id == str(i)
            assert (result.as_numpy("embedding")[0] == wanted).all()
        _, error = answers.get(timeout=HANG_SECONDS)
        assert "no model 'nobody'" in str(error)
        result, error = answers.get(timeout=HANG_SECONDS)
        assert error is None and (result.as_numpy("embedding") == expected.vectors).all()
        client.stop_stream()


def test_it_is_counted(client, server):
    before = server.metrics().get('lion_rpc_requests_total{code="OK",model="demo",rpc="kserve.ModelInfer"}', 0)
    client.infer("demo", [text_tensor(["a"])])
    assert server.metrics()['lion_rpc_requests_total{code="OK",model="demo",rpc="kserve.ModelInfer"}'] == before + 1
