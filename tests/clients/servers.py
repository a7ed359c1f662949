# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Real servers behind TLS for the clients of every language: one that asks for a key, one for a certificate."""

import hashlib
import subprocess

from harness import DEMO, Server

MODEL = f"demo={DEMO / 'model'}"
QUICK = ("--parallel_max_tokens=64", "--max_batch_tokens=256")


def make_pki(directory):
    """ca.pem, and server.{key,pem} and client.{key,pem} that it signed, for localhost and 127.0.0.1."""

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for who in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{who}.pem", "-days", "2",
                "-extfile", "names")
    return directory


class SecureServer(Server):
    """Behind TLS; ca is what its callers need to trust it, cert and key what they may need to show."""

    def __init__(self, pki, *flags):
        super().__init__([MODEL], *QUICK, f"--tls_cert={pki / 'server.pem'}", f"--tls_key={pki / 'server.key'}", *flags)
        self.ca, self.cert, self.key = pki / "ca.pem", pki / "client.pem", pki / "client.key"

    @classmethod
    def with_keys(cls, pki):
        """Asks for the API key "sesame"."""
        (pki / "keys").write_text(f"ann {hashlib.sha256(b'sesame').hexdigest()}\n")
        return cls(pki, f"--api_key_file={pki / 'keys'}")

    @classmethod
    def with_certificates(cls, pki):
        """Asks for a certificate of the same authority."""
        return cls(pki, f"--tls_client_ca={pki / 'ca.pem'}")
