"""Tokens and keys as an identity provider makes them, and as somebody forges them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = "a secret of the tests, which nobody else should use"

ALGORITHMS = ("RS256", "ES256", "EdDSA")


class KeyPair:
    """A key that signs, for one algorithm, and what verifies it."""

    def __init__(self, algorithm: str, kid: str = "") -> None:
        self.algorithm = algorithm
        self.kid = kid or secrets.token_hex(4)
        if algorithm == "RS256":
            self.private: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "ES384":
            self.private = ec.generate_private_key(ec.SECP384R1())
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()

    @property
    def pem(self) -> str:
        """The public key."""
        return str(self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())

    @property
    def private_pem(self) -> str:
        """The private key, which an edge should not get."""
        return str(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as a row of a JWKS."""
        row = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        row = {key: value for key, value in row.items() if key != "key_ops"}
        return {**row, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, user: str | None = "ann", *, kid: str | None = "", **claims: Any) -> str:
        """A token of this key; ``kid=None`` names none."""
        headers = {} if kid is None else {"kid": kid or self.kid}
        return jwt.encode(body(user, **claims), self.private, self.algorithm, headers=headers)


def body(user: str | None = "ann", **claims: Any) -> dict[str, Any]:
    """The claims of a token for a minute."""
    whose = {} if user is None else {"sub": user}
    return {**whose, "exp": int(time.time()) + 60, **claims}


def signed(user: str | None = "ann", secret: str = SECRET, **claims: Any) -> str:
    """A token by HS256."""
    return jwt.encode(body(user, **claims), secret, "HS256")


def forged(header: dict[str, Any], claims: Any, secret: bytes | None = None) -> str:
    """A token with any header and any claims: unsigned, or by HMAC with any secret, as no library would."""
    parts = [encoded(json.dumps(part).encode()) for part in (header, claims)]
    text = ".".join(parts)
    if secret is None:
        return text + "."
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def encoded(data: bytes) -> str:
    """As tokens have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def write_jwks(path: Path, *rows: dict[str, Any]) -> None:
    """Replace a JWKS file at once, as a deployment does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": rows}))
    fresh.replace(path)
