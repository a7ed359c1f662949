# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""kserve's client, as it is on PyPI: text, ids and pictures, raw and typed, readiness; equal to Embed's vectors."""

import asyncio

import grpc
import kserve
import numpy as np
import pytest
from conftest import TEXTS


def run(server, work):
    """work(client) in an event loop of its own."""

    async def main():
        async with kserve.InferenceGRPCClient(server.grpc) as client:
            return await work(client)

    return asyncio.run(main())


def text_request(texts, raw, **fields):
    given = kserve.InferInput("text", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=np.object_), binary_data=raw)
    return kserve.InferRequest(model_name=fields.pop("model_name", "demo"), infer_inputs=[given], **fields)


def test_it_is_there(server):
    async def work(client):
        return await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("demo"), await client.is_model_ready("nobody")

    assert run(server, work) == (True, True, True, False)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_text_gives_embeds_vectors(server, expected, raw):
    response = run(server, lambda client: client.infer(text_request(TEXTS, raw, request_id="42")))
    assert response.id == "42" and response.model_name == "demo"
    assert (response.outputs[0].as_numpy() == expected.vectors).all()


def tensor(name, array, datatype, raw):
    given = kserve.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=raw)
    return given


def test_pictures_give_embeds_vectors(vision, pictures):
    files = tensor("image", np.array(pictures.files, dtype=np.object_), "BYTES", raw=True)  # its typed contents are UTF-8 alone
    for given, furthest in ((files, 0), (tensor("pixels", pictures.pixels, "FP32", True), 1e-5), (tensor("pixels", pictures.pixels, "FP32", False), 1e-5)):
        request = kserve.InferRequest(model_name="vision", infer_inputs=[given])
        response = run(vision, lambda client, request=request: client.infer(request))
        np.testing.assert_allclose(response.outputs[0].as_numpy(), pictures.vectors, rtol=0, atol=furthest)


def test_ids_give_embeds_vectors(server, expected):
    ids = kserve.InferInput("input_ids", [1, len(expected.ids[0])], "INT64")
    ids.set_data_from_numpy(np.array(expected.ids[:1], np.int64), binary_data=True)
    response = run(server, lambda client: client.infer(kserve.InferRequest(model_name="demo", infer_inputs=[ids])))
    assert (response.outputs[0].as_numpy() == expected.vectors[:1]).all()


def test_parameters(server):
    response = run(server, lambda client: client.infer(text_request(TEXTS, True, parameters={"dimensions": 8})))
    assert list(response.outputs[0].shape) == [len(TEXTS), 8]


def test_errors_have_their_code(server):
    with pytest.raises(grpc.RpcError) as error:
        run(server, lambda client: client.infer(text_request(["a"], True, model_name="nobody")))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
