# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""LION Serve as LlamaIndex's embedding model. Needs the extra: lion-serve-client[llama-index].

    from lion_serve import Client
    from lion_serve.llama_index import LionEmbedding

    index = VectorStoreIndex.from_documents(documents, embed_model=LionEmbedding(client=Client("127.0.0.1:50051")))
"""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from lion_serve.client import Client


class LionEmbedding(BaseEmbedding):
    """Queries and texts are embedded alike. The client is borrowed; options are those of Client.embed.

    LlamaIndex gives embed_batch_size (512) texts at a time; the client cuts them into its own calls. The asynchronous
    methods run on a thread, so they work on any event loop.
    """

    embed_batch_size: int = Field(default=512, gt=0, le=2048, description="Texts that LlamaIndex gives at a time.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of every Client.embed.")
    _client: Client = PrivateAttr()

    def __init__(self, client: Client, *, options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options or {}
        self._client = client

    @classmethod
    def class_name(cls) -> str:
        return "LionEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._client.embed(texts, **self.options).vectors.tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)
