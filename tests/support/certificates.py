"""Certificates and keys for tests, in files: an authority, a server of this machine, a client, and nkeys."""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import nkeys
import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files, all signed by ``ca`` but the stranger's."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str
    other_ca: str
    other_cert: str
    other_key: str


@cache
def certificates() -> Certificates:
    """One authority, a server for 127.0.0.1 and localhost, and a client; and another authority with a client."""
    home = Path(mkdtemp(prefix="roomcast-certificates-"))
    ca, other = trustme.CA(), trustme.CA()

    def write(name: str, blob: trustme.Blob) -> str:
        path = home / name
        path.write_bytes(blob.bytes())
        return str(path)

    def pair(name: str, leaf: trustme.LeafCert) -> tuple[str, str]:
        chain = home / f"{name}.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return str(chain), write(f"{name}.key", leaf.private_key_pem)

    return Certificates(
        write("ca.pem", ca.cert_pem),
        *pair("server", ca.issue_cert("127.0.0.1", "localhost")),
        *pair("client", ca.issue_cert("client@example.org")),
        write("other-ca.pem", other.cert_pem),
        *pair("other", other.issue_cert("127.0.0.1", "localhost")),
    )


def new_nkey(kind: int) -> tuple[str, str]:
    """The seed and the public key of a new nkey: ``nkeys.PREFIX_BYTE_USER``, ``_ACCOUNT`` or ``_OPERATOR``."""
    body = bytes([nkeys.PREFIX_BYTE_SEED | kind >> 5, (kind & 31) << 3]) + os.urandom(32)
    seed = base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode().rstrip("=")
    public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
    return seed, public


def operator_mode() -> tuple[str, str]:
    """The configuration of a server that trusts an operator's JWTs, and the text of a .creds file of one user."""
    operator, operator_key = new_nkey(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_key = new_nkey(nkeys.PREFIX_BYTE_ACCOUNT)
    _, system_key = new_nkey(nkeys.PREFIX_BYTE_ACCOUNT)
    user, user_key = new_nkey(nkeys.PREFIX_BYTE_USER)
    limits = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    operator_jwt = _jwt(operator, operator_key, operator_key, {"type": "operator", "version": 2})
    about = {"type": "account", "version": 2}
    account_jwt = _jwt(operator, operator_key, account_key, {**about, "limits": limits | stored})
    system_jwt = _jwt(operator, operator_key, system_key, {**about, "limits": limits})
    open_ended = {"subs": -1, "data": -1, "payload": -1}
    user_jwt = _jwt(account, account_key, user_key, {"type": "user", "version": 2, **open_ended})
    config = (
        f"operator: {operator_jwt}\nsystem_account: {system_key}\nresolver: MEMORY\n"
        f"resolver_preload {{\n{account_key}: {account_jwt}\n{system_key}: {system_jwt}\n}}\n"
    )
    credentials = (
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user}\n------END USER NKEY SEED------\n"
    )
    return config, credentials


def _jwt(seed: str, issuer: str, subject: str, nats: dict[str, object]) -> str:
    claims = {"jti": "x", "iat": int(time.time()), "iss": issuer, "sub": subject, "name": "test", "nats": nats}
    head = _base64url(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    signed = f"{head}.{_base64url(json.dumps(claims).encode())}"
    return f"{signed}.{_base64url(nkeys.from_seed(bytearray(seed.encode())).sign(signed.encode()))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
