"""Tokens without an edge: every way in which one is good, expired, forged or broken; and the keys that verify them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import random
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.datastructures import Headers

from roomcast.grants import Grant
from roomcast_edge import auth
from roomcast_edge.auth import Denied, Everybody, Tokens, tokens_of
from roomcast_edge.closing import CloseCode
from roomcast_edge.handshake import Handshake, client_address, read_handshake, split_target
from roomcast_edge.settings import Settings
from support.tokens import ALGORITHMS, SECRET, KeyPair, body, encoded, forged, signed, write_jwks

PAIRS = {algorithm: KeyPair(algorithm, f"the {algorithm} key") for algorithm in ALGORITHMS}


def tokens(**more: Any) -> Tokens:
    return Tokens(Settings(auth="jwt", **more))


async def denial(verifier: Tokens, token: str) -> CloseCode:
    with pytest.raises(Denied) as denied:
        await verifier.admit(Handshake("/ws", token=token))
    assert len(token) < 20 or token not in str(denied.value), "what is refused is not said back"
    return denied.value.code


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    """A file with a key of each kind."""
    path = tmp_path / "keys.json"
    write_jwks(path, *[pair.jwk for pair in PAIRS.values()])
    return path


# -- what a token grants -----------------------------------------------------------------------------------------------


async def test_the_claims_are_the_grant():
    expires = int(time.time()) + 60
    token = signed("ann", rooms=["news"], client_rooms=["chat-*"], data={"plan": "gold"}, exp=expires, more="ignored")
    grant = await tokens(jwt_secret=SECRET, jwt_leeway=3).admit(Handshake("/ws", token=token))
    assert grant == Grant("ann", ("news",), ("chat-*",), {"plan": "gold"}, expires + 3)
    assert grant.all_rooms == ("user.ann", "news")


async def test_a_token_need_not_say_anything():
    assert await tokens(jwt_secret=SECRET).renew(jwt.encode({}, SECRET, "HS256")) == Grant()


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"sub": "x" * 251},
        {"rooms": "news"},
        {"rooms": ["news", 7]},
        {"rooms": [""]},
        {"rooms": ["x" * 256]},
        {"client_rooms": {"a": 1}},
        {"client_rooms": [None]},
        {"exp": 1e13},
        {"exp": "9999999999"},
        {"data": "\ud800"},
        {"data": 1 << 80},
        {"client_rooms": ["\udc00"]},
        {"rooms": ["\udc00"]},
        {"data": json.loads("[" * 300 + "]" * 300)},
    ],
    ids=repr,
)
async def test_claims_that_grant_nothing_refuse(claims: dict[str, Any]):
    assert await denial(tokens(jwt_secret=SECRET), signed(**claims)) is CloseCode.REFUSED


@pytest.mark.parametrize(
    "claims", [{"iss": "them"}, {"aud": "them"}, {"iss": None}, {"aud": None}, {"aud": ["x", "y"]}]
)
async def test_issuer_and_audience_are_checked(claims: dict[str, Any]):
    strict = tokens(jwt_secret=SECRET, jwt_issuer="us", jwt_audience="chat")
    right: dict[str, Any] = {"iss": "us", "aud": "chat"}
    assert (await strict.renew(signed(**right))).user == "ann"
    assert (await strict.renew(signed(**{**right, "aud": ["chat", "mail"]}))).user == "ann"
    wrong = {key: value for key, value in {**right, **claims}.items() if value is not None}
    assert await denial(strict, signed(**wrong)) is CloseCode.REFUSED
    assert (await tokens(jwt_secret=SECRET).renew(signed(**wrong))).user == "ann", "nothing is asked for"


async def test_times_are_checked_with_leeway():
    now = int(time.time())
    strict, lenient = tokens(jwt_secret=SECRET, jwt_leeway=0), tokens(jwt_secret=SECRET, jwt_leeway=30)
    late, early = signed(exp=now - 15), signed(nbf=now + 15)
    assert await denial(strict, late) is CloseCode.TOKEN_EXPIRED
    assert await denial(strict, early) is CloseCode.REFUSED
    assert (await lenient.renew(late)).expires == now + 15
    assert (await lenient.renew(early)).user == "ann"
    assert await denial(lenient, signed(exp=now - 40)) is CloseCode.TOKEN_EXPIRED


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_key_verifies_its_own_tokens_alone(algorithm: str, tmp_path: Path, jwks: Path):
    pair, stranger = PAIRS[algorithm], KeyPair(algorithm)
    pem = tmp_path / "key.pem"
    pem.write_text(pair.pem)
    for verifier in (tokens(jwt_keys=str(pem)), tokens(jwt_keys=str(jwks))):
        assert (await verifier.renew(pair.sign())).user == "ann"
        assert (await verifier.renew(pair.sign(kid=None))).user == "ann"
        assert await denial(verifier, stranger.sign(kid=pair.kid)) is CloseCode.REFUSED
        assert await denial(verifier, stranger.sign(kid=None)) is CloseCode.REFUSED


async def test_the_kid_chooses_and_a_secret_may_stand_beside(jwks: Path):
    old, new = PAIRS["ES256"], KeyPair("ES256", "new")
    write_jwks(jwks, old.jwk, new.jwk)
    verifier = tokens(jwt_keys=str(jwks), jwt_secret=SECRET)
    assert (await verifier.renew(old.sign("old"))).user == "old"
    assert (await verifier.renew(new.sign("new"))).user == "new"
    assert (await verifier.renew(signed("secret"))).user == "secret"
    assert await denial(verifier, new.sign(kid=old.kid)) is CloseCode.REFUSED
    assert await denial(verifier, new.sign(kid="unknown")) is CloseCode.REFUSED
    assert (await verifier.renew(new.sign("new", kid=None))).user == "new", "without an id all of its kind are tried"


async def test_a_pem_file_may_hold_several_keys(tmp_path: Path):
    path = tmp_path / "keys.pem"
    path.write_text("\n".join(pair.pem for pair in PAIRS.values()))
    verifier = tokens(jwt_keys=str(path))
    for pair in PAIRS.values():
        assert (await verifier.renew(pair.sign())).user == "ann"


async def test_keys_for_encryption_are_passed_over(jwks: Path):
    pair = PAIRS["RS256"]
    write_jwks(jwks, {**KeyPair("RS256").jwk, "use": "enc", "alg": "RSA-OAEP"}, pair.jwk)
    assert (await tokens(jwt_keys=str(jwks)).renew(pair.sign())).user == "ann"


async def test_a_replaced_file_is_read_again_and_a_broken_one_is_not_taken(jwks: Path, monkeypatch, caplog):
    monkeypatch.setattr(auth, "REREAD_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    old, new = PAIRS["EdDSA"], KeyPair("EdDSA", "new")
    verifier = tokens(jwt_keys=str(jwks))
    assert await denial(verifier, new.sign()) is CloseCode.REFUSED
    write_jwks(jwks, new.jwk)
    assert (await verifier.renew(new.sign())).user == "ann"
    assert await denial(verifier, old.sign()) is CloseCode.REFUSED, "a key that was taken out is good no more"
    for broken in ("{", "", json.dumps({"keys": []}), "-----BEGIN PUBLIC KEY-----"):
        jwks.write_text(broken)
        assert (await verifier.renew(new.sign())).user == "ann"
    jwks.unlink()
    assert (await verifier.renew(new.sign())).user == "ann"
    assert caplog.text.count("the keys of before are kept") >= 5
    write_jwks(jwks, old.jwk)
    assert (await verifier.renew(old.sign())).user == "ann"


@pytest.mark.parametrize(
    ("more", "text", "why"),
    [
        ({}, None, "--auth jwt needs --jwt-secret, or --jwt-keys"),
        ({"jwt_secret": "x" * 31}, None, "less than 32 bytes"),
        ({"jwt_keys": "/nowhere/keys.json"}, None, "No such file"),
        ({}, "", "neither PEM nor a JWKS"),
        ({}, "[]", "neither PEM nor a JWKS"),
        ({}, '{"keys":[]}', "no keys"),
        ({}, '{"keys":[7]}', "neither PEM nor a JWKS"),
        ({}, '{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}', "HS256"),
        ({}, "-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----", "no public key for RS256, ES256, EdDSA"),
        ({}, json.dumps({"keys": [KeyPair("ES384").jwk]}), "ES384"),
        ({}, KeyPair("ES384").pem, "no public key"),
        *[({}, pair.private_pem, "private key") for pair in PAIRS.values()],
    ],
)
def test_keys_that_cannot_be_used_are_said_in_one_line(
    more: dict[str, Any], text: str | None, why: str, tmp_path: Path
):
    if text is not None:
        (tmp_path / "keys").write_text(text)
        more = {"jwt_keys": str(tmp_path / "keys")}
    with pytest.raises(ValueError, match=why) as caught:
        tokens(**more)
    assert "\n" not in str(caught.value)
    assert text is None or "PRIVATE" not in str(caught.value)


def test_keys_that_would_not_be_used_are_refused():
    assert tokens_of(Settings()) is None
    for name in ("none", "bus"):
        with pytest.raises(ValueError, match=f"--auth is {name}"):
            tokens_of(Settings(auth=name, jwt_secret=SECRET))


async def test_without_tokens_there_is_nothing_to_renew():
    assert await Everybody().admit(Handshake("/ws")) == Grant()
    with pytest.raises(Denied):
        await Everybody().renew(signed())


# -- forgeries ---------------------------------------------------------------------------------------------------------


def forgeries() -> list[str]:
    """Tokens that a lenient library would take."""
    claims = body("root")
    found = [forged({"alg": name, "typ": "JWT"}, claims) for name in ("none", "None", "NONE", "", "HS256", "RS256")]
    for pair in PAIRS.values():
        for key in (pair.pem, pair.pem.strip(), json.dumps(pair.jwk)):  # what everybody may know, as an HMAC's secret
            found += [forged({"alg": alg, "kid": pair.kid}, claims, key.encode()) for alg in ("HS256", pair.algorithm)]
        header, text, signature = pair.sign("ann").split(".")
        other = encoded(json.dumps(claims).encode())
        found += [f"{header}.{other}.{signature}", f"{header}.{text}.", f"{header}.{text}", f".{text}.{signature}"]
        found.append(f"{encoded(json.dumps({'alg': 'none'}).encode())}.{text}.")
        found.append(jwt.encode(claims, KeyPair(pair.algorithm).private, pair.algorithm, headers={"jwk": pair.jwk}))
    found.append(forged({"alg": "HS256"}, claims, b""))
    found.append(jwt.encode(claims, SECRET, "HS512"))
    found.append(forged({"alg": "HS256", "crit": ["exp"]}, claims, b"x"))
    found.append(forged({"alg": ["HS256"]}, claims, b"x"))
    found.append(forged({"alg": "HS256", "kid": 7}, claims, b"x"))
    return found


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_forged_tokens_are_refused(jwks: Path):
    for verifier in (tokens(jwt_keys=str(jwks)), tokens(jwt_keys=str(jwks), jwt_secret=SECRET)):
        for token in forgeries():
            assert await denial(verifier, token) is CloseCode.REFUSED, token


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, 10**400, "[" * 9, [[]], {}])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_times_that_are_none_refuse(claim: str, value: Any):
    await denial(tokens(jwt_secret=SECRET), forged({"alg": "HS256"}, {claim: value}, SECRET.encode()))


@pytest.mark.parametrize("place", [0, 1])
async def test_a_part_that_is_nested_too_deeply_refuses(place: int, jwks: Path):
    deep, parts = encoded(b"[" * 20_000 + b"]" * 20_000), signed().split(".")
    parts[place] = deep
    assert await denial(tokens(jwt_keys=str(jwks), jwt_secret=SECRET), ".".join(parts)) is CloseCode.REFUSED
    text = signed().split(".")[0] + "." + deep
    secret = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    assert await denial(tokens(jwt_secret=SECRET), f"{text}.{encoded(secret)}") is CloseCode.REFUSED


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text()
    | st.text(alphabet="eyJhbGciOi.-_=", max_size=80)
    | st.builds(
        forged,
        st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "zip"]), any_json | st.just("HS256")),
        any_json | st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "rooms"]), any_json),
        st.none() | st.binary(),
    )
)
def test_no_text_is_a_token_or_breaks_anything(jwks: Path, token: str):
    verifier = tokens(jwt_keys=str(jwks), jwt_secret=SECRET)
    assert asyncio.run(denial(verifier, token)) in (CloseCode.REFUSED, CloseCode.TOKEN_EXPIRED)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "iss", "aud", "rooms", "client_rooms", "data", "expires"]),
        any_json,
    )
)
def test_claims_that_are_signed_grant_or_refuse_and_never_raise(claims: dict[str, Any]):
    verifier = tokens(jwt_secret=SECRET)
    token = forged({"alg": "HS256"}, claims, SECRET.encode())
    try:
        grant = asyncio.run(verifier.renew(token))
    except Denied:
        return
    assert grant.user == claims.get("sub")
    assert math.isfinite(grant.expires)


@pytest.mark.parametrize("seed", range(5))
async def test_a_token_with_any_byte_changed_is_refused(seed: int, jwks: Path):
    verifier, rng = tokens(jwt_keys=str(jwks), jwt_secret=SECRET), random.Random(seed)
    good = [*[pair.sign() for pair in PAIRS.values()], signed()]
    for _ in range(100):
        token = rng.choice(good)
        # The last character of a part may bear bits that mean nothing: another one there is the same token.
        place = rng.choice(
            [n for n, letter in enumerate(token) if letter != "." and token[n + 1 : n + 2] not in ("", ".")]
        )
        changed = token[:place] + rng.choice("AZaz09-_") + token[place + 1 :]
        if changed != token:
            assert await denial(verifier, changed) is CloseCode.REFUSED


# -- what a service is asked -------------------------------------------------------------------------------------------


def test_a_service_is_asked_in_json_whatever_the_bytes():
    target = "/ws?a=1&a=2&b=%FF&c=\udcc3\udcab"  # websockets before version 17 decodes what is no ASCII like that
    told = read_handshake(*split_target(target), Headers({"X-Name": "Zoë"}), "10.0.0.1\udcfe").question()
    json.dumps(told.to_json(), ensure_ascii=False).encode()
    assert told.headers == {"x-name": "Zoë"}
    assert told.query == {"a": "1", "b": "�", "c": "ë"}
    assert told.address == "10.0.0.1�"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, ["6.6.6.6"], "10.0.0.9"),
        (1, ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (1, ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        (2, ["6.6.6.6, 1.1.1.1, 10.0.0.8"], "1.1.1.1"),
        (2, ["1.1.1.1"], "10.0.0.9"),
        (1, [], "10.0.0.9"),
    ],
)
def test_only_what_trusted_proxies_saw_is_believed(proxies: int, forwarded: list[str], address: str):
    headers = Headers()
    for value in forwarded:
        headers["X-Forwarded-For"] = value
    assert client_address("10.0.0.9", headers, proxies) == address
