"""How a client proves itself to NATS, and NATS to it: files and a token that become nats-py's options."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HELP = {
    "ca": "The CA that signs NATS's certificate (PEM file); NATS must then speak TLS.",
    "cert": "This client's certificate for NATS (PEM file); needs the key.",
    "key": "The key of that certificate (PEM file).",
    "credentials": "A .creds file: a user's JWT and seed.",
    "nkey": "A file with a user's nkey seed.",
    "token": "NATS's token; better in the environment than on a command line.",
}
"""What each field is for: the flags ``--nats-ca`` … of all commands."""

MASK = "***"


@dataclass(frozen=True, slots=True)
class Access:
    """What is shown to NATS, and what NATS must show. Empty texts are left out. ``ValueError`` for what cannot be.

    A user and a password stand in the URLs.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    credentials: str = ""
    nkey: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            if path and field.name != "token":
                check_file(f"nats_{field.name}", path)
        if bool(self.cert) != bool(self.key):
            raise ValueError("nats_cert and nats_key belong together: give both or neither")
        several = [name for name in ("credentials", "nkey", "token") if getattr(self, name)]
        if len(several) > 1:
            raise ValueError(f"nats_{several[0]} and nats_{several[1]} are two ways to say who this is: give one")
        if (self.credentials or self.nkey) and find_spec("nkeys") is None:
            raise ValueError("nats_credentials and nats_nkey need signatures: pip install 'roomcast[nkeys]'")
        if self.credentials and "BEGIN USER NKEY SEED" not in Path(self.credentials).read_text(errors="replace"):
            raise ValueError(f"nats_credentials {self.credentials}: this is no .creds file with a user's JWT and seed")
        if self.nkey:
            _check_seed(self.nkey)

    def options(self) -> dict[str, Any]:
        """The options of nats-py's ``connect``. ``ValueError`` for certificates that do not fit."""
        options: dict[str, Any] = {}
        if self.ca or self.cert:
            options["tls"] = self._tls()
        if self.credentials:
            options["user_credentials"] = self.credentials
        if self.nkey:
            options["nkeys_seed"] = self.nkey
        if self.token:
            options["token"] = self.token
        return options

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except ssl.SSLError:
            raise ValueError(f"nats_ca {self.ca}: this is no certificate in PEM form") from None
        if self.cert:
            load_pair(context, "nats", self.cert, self.key)
        return context


def check_file(name: str, path: str) -> None:
    """``ValueError`` where a file that a setting names cannot be read."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"{name} {path}: {error.strerror}") from None


def load_pair(context: ssl.SSLContext, prefix: str, cert: str, key: str) -> None:
    """Load a certificate and its key; ``ValueError`` says which settings do not fit."""
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", "") or str(error)
        raise ValueError(
            f"{prefix}_cert {cert} and {prefix}_key {key} are no certificate with its unencrypted key in PEM form "
            f"({str(why).lower().replace('_', ' ')})"
        ) from None


def _no_password() -> str:
    return ""  # nobody is there to be asked for it


def _check_seed(path: str) -> None:
    if not re.fullmatch(rb"SU[A-Z2-7]{56}", Path(path).read_bytes().strip()):
        raise ValueError(f"nats_nkey {path}: this is no seed of a user (SU… and 56 more letters)")


def check_url(url: str) -> None:
    """``ValueError`` for what is no NATS URL; the text shows no password."""
    try:
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        fits = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("nats", "tls")
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{masked(url)!r} is no NATS server: write nats://HOST:PORT, or tls://HOST:PORT")


def masked(url: str) -> str:
    """A NATS URL as it may be shown: without its password or token."""
    head, at, host = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, who = head.rpartition("//")
    user, colon, _ = who.partition(":")
    return f"{scheme}{slashes}{user + ':' if colon else ''}{MASK}@{host}"
