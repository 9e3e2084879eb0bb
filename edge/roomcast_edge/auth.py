"""Who may connect: everybody, whoever has a token that verifies, or whom a service on the bus grants it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jwt
import orjson

from roomcast.envelope import parse_answer
from roomcast.errors import RemoteError, RoomcastError
from roomcast.grants import Grant
from roomcast.grants import Handshake as Question
from roomcast.names import Subjects
from roomcast.requests import NoResponders, Requests
from roomcast_edge.closing import CloseCode
from roomcast_edge.handshake import Handshake
from roomcast_edge.settings import Settings

log = logging.getLogger("roomcast.edge")

_PEM_BLOCKS = re.compile(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----", re.DOTALL).findall

SYMMETRIC = "HS256"
ASYMMETRIC = ("RS256", "ES256", "EdDSA")
MIN_SECRET_BYTES = 32
"""What HS256 asks of its secret (RFC 7518, section 3.2)."""
REREAD_SECONDS = 5.0
"""How often, at most, a file of keys is looked at for newer ones."""


class Denied(Exception):
    """A connection that is refused; the message may be shown to the client."""

    def __init__(self, message: str, code: CloseCode = CloseCode.REFUSED) -> None:
        super().__init__(message)
        self.code = code


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

    _GRANT = Grant()

    async def admit(self, handshake: Handshake) -> Grant:
        """Nothing but the rooms of the settings."""
        return self._GRANT

    async def renew(self, token: str) -> Grant:
        """There are no tokens here."""
        raise Denied("this edge asks for no tokens")


@dataclass(frozen=True, slots=True)
class Key:
    """A key, the one algorithm that it is for, and its id (empty: it has none)."""

    id: str
    value: Any
    algorithm: str


class Tokens:
    """Signed tokens. The claims are ``sub`` (the user), ``rooms``, ``client_rooms``, ``data`` and ``exp``.

    A key verifies by its own algorithm alone, whatever a token says of itself.
    """

    def __init__(self, settings: Settings) -> None:
        """``ValueError`` says what is wrong with the keys."""
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._leeway = settings.jwt_leeway
        self._secret: list[Key] = []
        if settings.jwt_secret:
            if len(settings.jwt_secret.encode()) < MIN_SECRET_BYTES:
                raise ValueError(f"--jwt-secret has less than {MIN_SECRET_BYTES} bytes: it could be found by trying")
            self._secret = [Key("", settings.jwt_secret, SYMMETRIC)]
        self._file = Path(settings.jwt_keys) if settings.jwt_keys else None
        if self._file is None and not self._secret:
            raise ValueError("--auth jwt needs --jwt-secret, or --jwt-keys with a PEM or JWKS file")
        self._read_at = time.monotonic()
        self._written, self._keys = self._read() if self._file is not None else (0, self._secret)

    async def admit(self, handshake: Handshake) -> Grant:
        """The grant of the handshake's token."""
        if not handshake.token:
            raise Denied("a token is needed")
        return await self.renew(handshake.token)

    async def renew(self, token: str) -> Grant:
        """The grant of a token whose signature, times, issuer and audience hold."""
        self._read_again()
        try:
            claims = self._verify(token)
        except jwt.ExpiredSignatureError:
            raise Denied("the token has expired", CloseCode.TOKEN_EXPIRED) from None
        except Exception as error:  # a token is a stranger's text: whatever it breaks, it is refused
            log.debug("a token is refused: %s", type(error).__name__)
            raise Denied("the token does not verify") from None
        try:
            grant = Grant.from_json({**claims, "user": claims.get("sub"), "expires": claims.get("exp")})
        except ValueError as error:
            raise Denied(f"the token's claims are wrong: {error}") from None
        return replace(grant, expires=grant.expires + self._leeway) if grant.expires else grant

    def _verify(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid", "")
        error: Exception = jwt.InvalidKeyError("no key has this id and algorithm")
        for key in self._keys:
            if key.algorithm != header.get("alg") or (kid and key.id and kid != key.id):
                continue
            try:
                return jwt.decode(
                    token,
                    key.value,
                    algorithms=[key.algorithm],
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=self._leeway,
                    options={"verify_aud": self._audience is not None},
                )
            except jwt.InvalidSignatureError as wrong:
                error = wrong
        raise error

    def _read_again(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._read_at < REREAD_SECONDS:
            return
        self._read_at = now
        try:
            if self._file.stat().st_mtime_ns != self._written:
                self._written, self._keys = self._read()
                log.info("%s was read again: %d keys", self._file, len(self._keys))
        except (OSError, ValueError) as error:
            log.error("the keys of before are kept: %s", error)

    def _read(self) -> tuple[int, list[Key]]:
        assert self._file is not None, "there is a file to read"
        try:
            written = self._file.stat().st_mtime_ns
            return written, [*self._secret, *_public_keys(self._file.read_text())]
        except OSError as error:
            raise ValueError(f"--jwt-keys {self._file}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"--jwt-keys {self._file}: {error}") from None


def _public_keys(text: str) -> list[Key]:
    if "-----BEGIN" in text:
        return [_pem_key(block) for block in _PEM_BLOCKS(text) or [text]]
    try:
        # Identity providers list keys for encryption beside those for signatures.
        rows = [row for row in json.loads(text)["keys"] if row.get("use", "sig") == "sig"]
        found = [(str(row.get("kid", "")), jwt.PyJWK(row)) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ValueError(f"neither PEM nor a JWKS ({error})") from None
    for kid, each in found:
        if each.algorithm_name not in ASYMMETRIC:
            raise ValueError(f"the key {kid!r} is for {each.algorithm_name}; allowed are {', '.join(ASYMMETRIC)}")
    if not found:
        raise ValueError("the JWKS has no keys for signatures")
    return [Key(kid, _public(each.key), each.algorithm_name) for kid, each in found]


def _pem_key(block: str) -> Key:
    for algorithm in ASYMMETRIC:
        try:
            value = jwt.get_algorithm_by_name(algorithm).prepare_key(block)
        except (ValueError, TypeError, jwt.PyJWTError):
            continue
        return Key("", _public(value), algorithm)
    raise ValueError(f"no public key for {', '.join(ASYMMETRIC)}")


def _public(key: Any) -> Any:
    if hasattr(key, "private_bytes"):
        raise ValueError("this is a private key, which only those who sign should have; give its public one")
    return key


def tokens_of(settings: Settings) -> Tokens | None:
    """What verifies tokens, where tokens decide. ``ValueError``: the keys cannot be used, or would not be."""
    if settings.auth == "jwt":
        return Tokens(settings)
    if settings.jwt_secret or settings.jwt_keys:
        raise ValueError(f"keys of tokens are given, but --auth is {settings.auth}: no token would be verified")
    return None


class Asked:
    """A service on ``bus.auth`` grants or refuses."""

    def __init__(
        self, requests: Requests, subjects: Subjects, timeout: float, warn: Callable[[str, str], None]
    ) -> None:
        """``timeout`` is in seconds; ``warn`` logs, and not a line for each client that comes while nobody answers."""
        self._requests = requests
        self._warn = warn
        self._subject = subjects.auth
        self._timeout = timeout

    async def admit(self, handshake: Handshake) -> Grant:
        """What the service grants to this handshake."""
        return await self._ask(handshake.question())

    async def renew(self, token: str) -> Grant:
        """What the service grants to a fresh token."""
        return await self._ask(Question(token=token))

    async def _ask(self, question: Question) -> Grant:
        try:
            body = orjson.dumps(question.to_json())
        except TypeError:  # it reads 1,024 levels and writes 254
            raise Denied("the auth is nested too deeply") from None
        try:
            answer = parse_answer((await self._requests.ask(self._subject, body, self._timeout)).data)
        except RemoteError as error:
            if error.code != "internal":
                raise Denied(error.message or "refused") from None
            why = f"the service on {self._subject} failed: {error.message}"
        except (NoResponders, RoomcastError, ValueError) as error:
            why = f"no service answers on {self._subject}: {str(error) or 'nobody listens'}"
        else:
            try:
                return Grant.from_json(answer)
            except ValueError as error:
                why = f"the grant on {self._subject} is wrong: {error}"
        self._warn("a client is sent away", why)
        raise Denied("nobody can say who may connect", CloseCode.TRY_LATER)
