# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures in every form that the client takes, to an image model."""

import asyncio
import pathlib

import numpy as np
import pytest
from harness import Server
from pictures import S, png, vision_model

import lion_serve


class FakePicture:
    """Says what a PIL.Image.Image would."""

    def __init__(self, encoded):
        self._encoded = encoded

    def convert(self, mode):
        assert mode == "RGB"
        return self

    def save(self, out, kind, compress_level):
        assert kind == "PNG"
        out.write(self._encoded)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server([vision_model(tmp_path_factory.mktemp("models") / "vision")], "--parallel_max_tokens=64", "--max_batch_tokens=1024") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with lion_serve.Client(server.grpc) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).integers(0, 256, (S, S, 3), dtype=np.uint8)


def prepared(pixels):
    return ((pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.25).astype(np.float32)


def forms(picture, folder):
    path = pathlib.Path(folder) / "picture.png"
    path.write_bytes(png(picture))
    return [png(picture), bytearray(png(picture)), path, FakePicture(png(picture)), prepared(picture), prepared(picture).astype(np.float64)]


def test_every_form_of_a_picture_gives_its_vector(client, picture, tmp_path):
    found = client.embed(forms(picture, tmp_path))
    assert found.vectors.shape == (6, 48)
    np.testing.assert_allclose(found.vectors, np.repeat(found.vectors[:1], 6, 0), atol=1e-5)
    assert [row.error for row in client.embed_stream(forms(picture, tmp_path))] == [None] * 6
    scores = client.classify(forms(picture, tmp_path), top_k=1)
    assert len({row.scores[0].label for row in scores}) == 1


def test_the_asyncio_client_too(server, client, picture, tmp_path):
    async def embed():
        async with lion_serve.AsyncClient(server.grpc) as opened:
            return await opened.embed(forms(picture, tmp_path))

    np.testing.assert_array_equal(asyncio.run(embed()).vectors, client.embed(forms(picture, tmp_path)).vectors)


def test_list_models_tells_what_pictures_and_connections_may_be(client):
    (model,) = client.list_models()
    assert model.image == lion_serve.ImageInfo(S, 8, 2896, False, 3, S, ("image/jpeg", "image/png", "image/webp"), 50_000_000)
    assert model.max_queue_bytes == 256 << 20 and model.max_memory_bytes > 0
    limits = model.connection_limits
    assert (limits.max_calls, limits.max_idle, limits.keepalive_interval, limits.min_ping_interval) == (4096, None, 300, 10)


def test_a_picture_that_is_none_fails_alone(client, picture, tmp_path):
    found = client.embed([png(picture), b"GIF89a", tmp_path / "missing.png"], on_error="return")
    assert [error.index for error in found.errors] == [1, 2]
    assert found.errors[0].message == "inputs[1].image: is neither JPEG, PNG nor WebP: it looks like a GIF"
    assert "inputs[2].image: " in found.errors[1].message and "missing.png" in found.errors[1].message
    assert np.isfinite(found.vectors[0]).all() and np.isnan(found.vectors[1:]).all()


@pytest.mark.parametrize("value", [np.zeros((3, 4, 5)), np.zeros((1, 4, 4)), np.zeros(3)])
def test_pixels_of_another_shape_are_a_mistake_of_the_program(client, value):
    with pytest.raises(TypeError, match=r"inputs\[0\]\.pixels: floats of shape .*; normalised pixels are \[3, S, S\]"):
        client.embed([value])


def test_one_picture_is_no_list_of_them(client, picture):
    with pytest.raises(TypeError, match="inputs: one bytes; give a list of inputs"):
        client.embed(png(picture))
