# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""embed_document of both clients: the vectors of one pass, their places, what fails."""

import asyncio

import grpc
import numpy as np
import pytest
from harness import pb, text_input, values
from lion_serve import AsyncClient, Client, LionError

TEXT = "Serving é日本語 to the lion, in winter. " * 60


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc) as made:
        yield made


def test_the_vectors_of_the_wire_with_their_places(server, client):
    found = client.embed_document(TEXT, window=32, stride=20)
    want = server.call("Embed", pb.EmbedRequest(inputs=[text_input(TEXT)], pooling=pb.POOLING_WINDOWS,
                                                windows=pb.WindowOptions(size_tokens=32, stride_tokens=20))).results[0]
    assert (found.vectors == [values(v) for v in want.vectors]).all() and len(found) == len(want.vectors) > 10
    assert found.token_spans.tolist() == [[v.span.start_token, v.span.end_token] for v in want.vectors]
    assert found.byte_spans.tolist() == [[v.span.start_byte, v.span.end_byte] for v in want.vectors]
    assert found.token_count == want.token_count and not found.truncated and found.mode == "chunked"
    assert (found.model, found.model_version) == ("demo", client.list_models()[0].version)
    start, end = found.byte_spans[1]
    assert "lion" in TEXT.encode()[start:end].decode()


def test_other_poolings_and_vector_types(client):
    whole = client.embed_document(TEXT, pooling="mean")
    assert len(whole) == 1 and np.abs(whole.vectors - client.embed([TEXT], pooling="mean").vectors).max() <= 1e-5
    assert np.abs(client.embed_document(TEXT, window=1 << 20).vectors - whole.vectors).max() <= 1e-5
    assert len(client.embed_document([2, 100, 3], pooling="tokens")) == 3
    exact, packed = (client.embed_document(TEXT, window=64, vector_type=kind).vectors for kind in ("float32", "int8_bytes"))
    assert np.abs(exact - packed).max() <= 0.01 and client.embed_document(TEXT, dimensions=8).vectors.shape[1] == 8


def test_one_pass_gives_passages_and_the_whole(client):
    found = client.embed_document(TEXT, window=40, boundary="sentence", with_document=True)
    assert (found.whole == client.embed_document(TEXT, pooling="mean").vectors[0]).all()
    passages = [TEXT.encode()[start:end].decode() for start, end in found.byte_spans]
    assert all(p.startswith("Serving") and p.endswith("winter.") for p in passages) and len(passages) > 10
    assert np.diff(found.token_spans, axis=1).max() <= 40 and found.token_spans[1:, 0].tolist() == found.token_spans[:-1, 1].tolist()
    assert client.embed_document(TEXT).whole is None
    with pytest.raises(ValueError, match="boundary"):
        client.embed_document(TEXT, boundary="word")


def test_progress_ends_with_all_tokens(client):
    seen = []
    found = client.embed_document(TEXT, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (found.token_count, found.token_count) and seen == sorted(seen)


def test_failures_name_their_field(small, client):
    with pytest.raises(LionError, match="windows.stride_tokens: 9") as failed:
        client.embed_document(TEXT, window=8, stride=9)
    assert failed.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with Client(small.grpc) as narrow, pytest.raises(LionError, match="input.text: .*64"):
        narrow.embed_document(TEXT)
    with pytest.raises(LionError, match="input.text: "):
        client.embed_document("\ud800")
    with pytest.raises(ValueError, match="pooling"):
        client.embed_document(TEXT, pooling="max")


def test_asyncio_gives_the_same(server, client):
    async def inside():
        async with AsyncClient(server.grpc) as other:
            return await asyncio.gather(*(other.embed_document(TEXT, window=w) for w in (16, 64)))

    for found, window in zip(asyncio.run(asyncio.wait_for(inside(), 120)), (16, 64)):
        assert (found.vectors == client.embed_document(TEXT, window=window).vectors).all()
