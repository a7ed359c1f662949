# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Client of LION Serve: texts to embeddings and class scores over gRPC.

    from lion_serve import Client

    with Client("127.0.0.1:50051") as client:
        vectors = client.embed(["a cat", "a dog"]).vectors  # float32 [2, W]

AsyncClient is the same for asyncio. Adapters, each an extra: lion_serve.langchain, lion_serve.llama_index,
lion_serve.sentence_transformers.
"""

from lion_serve.aio import AsyncClient
from lion_serve.client import Client
from lion_serve.errors import LionError, RowError, RowsFailed
from lion_serve.types import (
    Classification,
    ConnectionLimits,
    Document,
    Embedding,
    Embeddings,
    ImageInfo,
    Input,
    LabelScore,
    ModelInfo,
    TokenEmbeddings,
    TokenIds,
    Tokens,
)

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ConnectionLimits",
    "Document",
    "Embedding",
    "Embeddings",
    "ImageInfo",
    "Input",
    "LabelScore",
    "LionError",
    "ModelInfo",
    "RowError",
    "RowsFailed",
    "TokenEmbeddings",
    "TokenIds",
    "Tokens",
]
