# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""LION Serve behind the calls of a SentenceTransformer, for code that takes one: search, mining, evaluation.

numpy is enough for encode; tensors and similarity need the extra: lion-serve-client[sentence-transformers].

    from lion_serve import Client
    from lion_serve.sentence_transformers import SentenceEncoder

    model = SentenceEncoder(Client("127.0.0.1:50051"))
    vectors = model.encode(["a cat", "a dog"])  # float32 [2, W]
    model.similarity(vectors, vectors)          # tensor [2, 2]
"""

from __future__ import annotations

from typing import Any, Callable, Literal, Mapping, Sequence, Union

import numpy as np

from lion_serve.client import Client

Sentence = Union[str, "tuple[str, str]"]


class SentenceEncoder:
    """encode, encode_query, encode_document and similarity, with the arguments of SentenceTransformer.

    The client is borrowed; options are those of Client.embed. prompts are texts put in front, by name. Accepted without
    effect: batch_size (the client's own counts), pool and chunk_size. device is where tensors are put.
    """

    similarity_fn_name: Literal["cosine"] = "cosine"

    def __init__(
        self,
        client: Client,
        *,
        prompts: Mapping[str, str] | None = None,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> None:
        self._client = client
        self._options = options
        self._dimensions: int | None = None
        self.prompts = dict(prompts or {})
        self.model_card_data = _NoCard()
        self.truncate_dim = truncate_dim

    def encode(
        self,
        inputs: Union[Sentence, Sequence[Sentence]],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] = "sentence_embedding",
        precision: Literal["float32"] | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """An array [N, W], or one [W] for a single input; a tensor, or a list of them, where asked.

        normalize_embeddings False leaves the model's own rule. ValueError for a precision other than float32, an
        output_value that a server does not give, or an unknown prompt_name.
        """
        if precision not in ("float32", None):
            raise ValueError(f"precision: {precision!r}; vectors are float32, quantize_embeddings makes others of them")
        if output_value not in ("sentence_embedding", "token_embeddings"):
            raise ValueError(f"output_value: {output_value!r} is not one of sentence_embedding, token_embeddings")
        is_one = isinstance(inputs, str) or (isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], str))
        sentences: Any = [inputs] if is_one else list(inputs)
        if front := self._prompt(prompt_name, prompt):
            sentences = [front + s if isinstance(s, str) else (front + s[0], s[1]) for s in sentences]
        options = {"dimensions": truncate_dim or self.truncate_dim or 0, **self._options}
        if normalize_embeddings:
            options["normalize"] = True
        with _Progress(show_progress_bar, len(sentences)) as progress:
            if output_value == "token_embeddings":
                found: Any = [e.vectors for e in self._client.embed_tokens(sentences, progress=progress, **options)]
            else:
                found = self._client.embed(sentences, progress=progress, **options).vectors
        if is_one:
            found = found[0]
        if output_value == "token_embeddings":  # tensors, whatever was asked: as SentenceTransformer does
            return _tensor(found, device) if is_one else [_tensor(vectors, device) for vectors in found]
        if convert_to_tensor:
            return _tensor(found, device)
        if convert_to_numpy:
            return found
        return _tensor(found, device) if is_one else list(_tensor(found, device))

    def encode_query(self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **kwargs: Any) -> Any:
        """encode, with the prompt named "query" if there is one and none other is asked for."""
        return self.encode(inputs, self._or_named(prompt_name, prompt, "query"), prompt, **kwargs)

    def encode_document(self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **kwargs: Any) -> Any:
        """encode, with the prompt named "document" if there is one and none other is asked for."""
        return self.encode(inputs, self._or_named(prompt_name, prompt, "document"), prompt, **kwargs)

    @property
    def similarity(self) -> Callable[[Any, Any], Any]:
        """Cosines of all rows of one with all of the other: a tensor."""
        from sentence_transformers import util

        function: Callable[[Any, Any], Any] = util.cos_sim
        return function

    @property
    def similarity_pairwise(self) -> Callable[[Any, Any], Any]:
        """Cosines of the rows of one with those of the other, row by row: a tensor."""
        from sentence_transformers import util

        function: Callable[[Any, Any], Any] = util.pairwise_cos_sim
        return function

    def get_embedding_dimension(self) -> int:
        """The width of encode's vectors."""
        if self._dimensions is None:
            self._dimensions = len(self._client.embed(["a"], **self._options).vectors[0])
        return min(self._dimensions, self.truncate_dim or self._dimensions)

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name

    def _or_named(self, prompt_name: str | None, prompt: str | None, name: str) -> str | None:
        return name if prompt_name is None and prompt is None and name in self.prompts else prompt_name

    def _prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return ""
        if prompt_name not in self.prompts:
            raise ValueError(f"prompt_name: {prompt_name!r} is not one of {', '.join(self.prompts) or 'none'}")
        return self.prompts[prompt_name]


def _tensor(values: Any, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


class _NoCard:
    """Evaluators write their scores into the model's card, besides returning them. A server's model has none to write to."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        pass


class _Progress:
    """A bar while the block runs, if one is wanted."""

    def __init__(self, wanted: bool | None, total: int) -> None:
        self._bar: Any = None
        if wanted:
            import tqdm.auto

            self._bar = tqdm.auto.tqdm(total=total, desc="Rows")

    def __call__(self, done: int, total: int | None) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
