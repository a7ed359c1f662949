# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""TLS, client certificates and API keys against a server that asks for them."""

import asyncio

import grpc
import pytest
from lion_serve import AsyncClient, Client, LionError


def test_tls_and_a_key(locked):
    with Client(locked.grpc, tls_ca=locked.ca, api_key="sesame") as client:
        client.wait_until_ready(30)
        assert client.health() == "SERVING" and client.embed(["x"]).vectors.shape == (1, 384)
        assert [row.index for row in client.embed_stream(["x", "y"])] == [0, 1]
    with Client(locked.grpc, tls_ca=locked.ca.read_bytes(), api_key="sesame") as client:  # PEM itself
        assert len(client.list_models()) == 1

    async def run():
        async with AsyncClient(locked.grpc, tls_ca=locked.ca, api_key="sesame") as client:
            return await client.health(), len(await client.embed(["x"]))

    assert asyncio.run(run()) == ("SERVING", 1)


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_a_wrong_key(locked, key):
    with Client(locked.grpc, tls_ca=locked.ca, api_key=key) as client:
        assert client.health() == "SERVING"  # open to all
        for call in (lambda: client.embed(["x"], on_error="return"), client.list_models, lambda: list(client.embed_stream(["x"]))):
            with pytest.raises(LionError) as caught:
                call()
            assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("options", [{}, {"tls": True}])
def test_no_tls_or_another_authority(locked, options):
    with Client(locked.grpc, api_key="sesame", deadline=5, **options) as client:
        with pytest.raises(LionError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
            client.list_models()


def test_client_certificates(mutual):
    with Client(mutual.grpc, tls_ca=mutual.ca, tls_cert=mutual.cert, tls_key=mutual.key) as client:
        assert client.health() == "SERVING" and client.embed(["x"]).vectors.shape == (1, 384)
    with Client(mutual.grpc, tls_ca=mutual.ca, deadline=5) as client:
        with pytest.raises(LionError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
            client.list_models()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pem"):
        Client(tls_ca=tmp_path / "none.pem")
