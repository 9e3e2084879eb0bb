"""Who may connect: everybody, whoever has a token that verifies, or whom a service on the bus grants it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Protocol

import jwt
import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import BusTimeout, BusUnavailable, RemoteError
from roomcast.names import Subjects
from roomcast.requests import NoResponders, Requests
from roomcast_edge.closing import CloseCode
from roomcast_edge.grants import Denied, Grant
from roomcast_edge.handshake import Handshake
from roomcast_edge.settings import Settings

log = logging.getLogger("roomcast.edge")

SYMMETRIC = ("HS256",)
ASYMMETRIC = ("RS256", "ES256", "EdDSA")
MIN_SECRET_BYTES = 32
"""What HS256 asks of its secret (RFC 7518, 3.2)."""


class Auth(Protocol):
    """Decides about a connection."""

    async def admit(self, handshake: Handshake) -> Grant:
        """What the connection is granted; raises :class:`Denied`."""
        ...

    async def renew(self, token: str) -> Grant:
        """What a fresh token of a connected client grants; raises :class:`Denied`."""
        ...


class Everybody:
    """No questions asked."""

    async def admit(self, handshake: Handshake) -> Grant:
        """Nothing but the rooms of the settings."""
        return Grant()

    async def renew(self, token: str) -> Grant:
        """There are no tokens here."""
        raise Denied("this edge asks for no tokens")


class Tokens:
    """Signed tokens: the claims are ``sub`` (the user), ``rooms``, ``client_rooms``, ``data``, ``exp``."""

    def __init__(self, settings: Settings) -> None:
        """``ValueError`` says what is wrong with the keys."""
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._leeway = settings.jwt_leeway
        self._keys: dict[str, tuple[Any, tuple[str, ...]]] = {}
        if settings.jwt_secret:
            if len(settings.jwt_secret.encode()) < MIN_SECRET_BYTES:
                raise ValueError(f"--jwt-secret has less than {MIN_SECRET_BYTES} bytes: anyone could try them all")
            self._keys[""] = (settings.jwt_secret, SYMMETRIC)
        if settings.jwt_keys:
            self._keys |= _read_keys(Path(settings.jwt_keys))
        if not self._keys:
            raise ValueError("--auth jwt needs --jwt-secret, or --jwt-keys with a PEM or JWKS file")

    async def admit(self, handshake: Handshake) -> Grant:
        """The grant of the handshake's token."""
        if not handshake.token:
            raise Denied("a token is needed")
        return await self.renew(handshake.token)

    async def renew(self, token: str) -> Grant:
        """The grant of a token whose signature, times, issuer and audience hold."""
        try:
            claims = self._verify(token)
        except jwt.ExpiredSignatureError:
            raise Denied("the token has expired", CloseCode.TOKEN_EXPIRED) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Denied("the token does not verify") from None  # why is nothing for who forges one
        try:
            return Grant.from_json({**claims, "user": claims.get("sub"), "expires": claims.get("exp", 0)})
        except ValueError as error:
            raise Denied(f"the token's claims are wrong: {error}") from None

    def _verify(self, token: str) -> dict[str, Any]:
        kid = jwt.get_unverified_header(token).get("kid", "")
        found = self._keys.get(kid) if isinstance(kid, str) else None
        if found is None and len(self._keys) == 1 and "" in self._keys:
            found = self._keys[""]
        if found is None:
            raise jwt.InvalidKeyError("no key has this id")
        key, algorithms = found
        return jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options={"verify_aud": self._audience is not None},
        )


def _read_keys(path: Path) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Public keys by id, each with the one algorithm that it is for."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"--jwt-keys {path}: {error.strerror}") from None
    if "-----BEGIN" in text:
        return {"": (text, (_pem_algorithm(text, path),))}
    try:
        keys = json.loads(text)["keys"]
        found = {}
        for key in keys:
            known = jwt.PyJWK(key)
            if known.algorithm_name not in ASYMMETRIC:
                raise ValueError(f"a key for {known.algorithm_name}; allowed are {', '.join(ASYMMETRIC)}")
            found[str(key.get("kid", ""))] = (known.key, (known.algorithm_name,))
        return found
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise ValueError(f"--jwt-keys {path}: neither PEM nor JWKS ({error})") from None


def _pem_algorithm(text: str, path: Path) -> str:
    for name in ASYMMETRIC:
        try:
            jwt.get_algorithm_by_name(name).prepare_key(text)
        except (ValueError, TypeError, jwt.PyJWTError):
            continue
        return name
    raise ValueError(f"--jwt-keys {path}: no public key for {', '.join(ASYMMETRIC)}")


class Asked:
    """A service on ``bus.auth`` grants or refuses."""

    def __init__(self, requests: Requests, subjects: Subjects, timeout: float) -> None:
        self._requests = requests
        self._subject = subjects.auth
        self._timeout = timeout

    async def admit(self, handshake: Handshake) -> Grant:
        """What the service grants to this handshake."""
        return await self._ask(
            {
                "token": handshake.token,
                "auth": dict(handshake.auth),
                "headers": dict(handshake.headers),
                "query": {key: values[0] for key, values in handshake.query.items()},
                "address": handshake.address,
                "path": handshake.path,
            }
        )

    async def renew(self, token: str) -> Grant:
        """What the service grants to a fresh token."""
        return await self._ask({"token": token, "auth": {}, "headers": {}, "query": {}, "address": "", "path": ""})

    async def _ask(self, body: dict[str, Any]) -> Grant:
        try:
            reply = await self._requests.ask(self._subject, orjson.dumps(body), self._timeout)
            return Grant.from_json(parse_answer(reply.data))
        except RemoteError as error:
            raise Denied(error.message or "refused") from None
        except NoResponders:
            log.error("clients are refused: no service answers %s", self._subject)
            raise Denied("nobody can say who may connect", CloseCode.TRY_LATER) from None
        except (BusTimeout, BusUnavailable) as error:
            log.error("clients are refused: %s", error)
            raise Denied("nobody can say who may connect", CloseCode.TRY_LATER) from None
        except ValueError as error:
            log.error("a grant on %s is wrong: %s", self._subject, error)
            raise Denied("the grant is wrong") from None


def make_auth(settings: Settings, requests: Requests, subjects: Subjects) -> Auth:
    """What the settings ask for. ``ValueError`` says what is wrong with them."""
    if settings.auth == "jwt":
        return Tokens(settings)
    if settings.auth == "bus":
        return Asked(requests, subjects, settings.action_timeout)
    return Everybody()
