# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion_serve.langchain in LangChain: the interface, and a vector store on top of it."""

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from lion_serve import LionError
from lion_serve.langchain import LionEmbeddings


@pytest.fixture
def embeddings(client):
    return LionEmbeddings(client)


def test_the_interface(client, embeddings, packages):
    assert isinstance(embeddings, Embeddings)
    texts = list(packages)
    want = client.embed(texts).vectors.tolist()
    assert embeddings.embed_documents(texts) == want and embeddings.embed_query(texts[0]) == want[0]
    assert asyncio.run(embeddings.aembed_documents(texts)) == want and asyncio.run(embeddings.aembed_query(texts[0])) == want[0]
    assert embeddings.embed_documents([]) == []


def test_options_are_embeds_own(client):
    assert len(LionEmbeddings(client, dimensions=16).embed_query("x")) == 16
    with pytest.raises(LionError, match="NOT_FOUND"):
        LionEmbeddings(client, model="nobody").embed_query("x")


def test_a_vector_store(embeddings, packages):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=text, metadata={"kind": kind}) for text, kind in packages.items()])
    for query, kind in (("nginx web server", "web"), ("gcc, the GNU C compiler", "compiler"), ("chess engine", "chess")):
        assert store.similarity_search(query, k=1)[0].metadata["kind"] == kind
    found = asyncio.run(store.as_retriever(search_kwargs={"k": 2}).ainvoke("IMAP mail reader"))
    assert found[0].metadata["kind"] == "mail" and len(found) == 2
