# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion_serve.llama_index in LlamaIndex: the interface, and an index on top of it."""

import asyncio

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from lion_serve.llama_index import LionEmbedding


def test_the_interface(client, packages):
    model = LionEmbedding(client=client)
    assert isinstance(model, BaseEmbedding) and model.class_name() == "LionEmbedding"
    texts = list(packages)
    want = client.embed(texts).vectors.tolist()
    assert model.get_text_embedding_batch(texts) == want
    assert model.get_text_embedding(texts[0]) == model.get_query_embedding(texts[0]) == want[0]

    async def run():
        return await model.aget_text_embedding_batch(texts), await model.aget_text_embedding(texts[0]), await model.aget_query_embedding(texts[0])

    assert asyncio.run(run()) == (want, want[0], want[0])
    assert LionEmbedding(client=client, embed_batch_size=2).get_text_embedding_batch(texts) == want
    assert len(LionEmbedding(client=client, options={"dimensions": 16}).get_text_embedding("x")) == 16


def test_an_index(client, packages):
    nodes = [TextNode(text=text, metadata={"kind": kind}, excluded_embed_metadata_keys=["kind"]) for text, kind in packages.items()]
    index = VectorStoreIndex(nodes, embed_model=LionEmbedding(client=client))
    retriever = index.as_retriever(similarity_top_k=1)
    for query, kind in (("nginx web server", "web"), ("gcc, the GNU C compiler", "compiler"), ("chess engine", "chess")):
        assert retriever.retrieve(query)[0].metadata["kind"] == kind
    assert asyncio.run(retriever.aretrieve("IMAP mail reader"))[0].metadata["kind"] == "mail"
