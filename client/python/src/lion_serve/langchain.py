# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""LION Serve as LangChain's embeddings. Needs the extra: lion-serve-client[langchain].

    from lion_serve import Client
    from lion_serve.langchain import LionEmbeddings

    store = InMemoryVectorStore(LionEmbeddings(Client("127.0.0.1:50051")))
"""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from lion_serve.client import Client


class LionEmbeddings(Embeddings):
    """Queries and documents are embedded alike. The client is borrowed; options are those of Client.embed.

    The asynchronous methods are LangChain's own, which run these on a thread: they work on any event loop.
    """

    def __init__(self, client: Client, **options: Any) -> None:
        self._client = client
        self._options = options

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._client.embed(texts, **self._options).vectors.tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]
