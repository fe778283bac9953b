"""Tokens of an identity provider: the forged, the stale and the borrowed ones are refused, whatever becomes of the provider."""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from httpx2 import AsyncClient, Response
from joserfc import jwe
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64encode
from websockets import connect
from websockets.exceptions import InvalidStatus

from app.environment import load_settings
from app.oidc import provider as provider_module
from app.oidc.dependencies import CurrentUser, SignedIn, require_role, require_scope
from app.oidc.provider import Provider
from app.oidc.settings import OIDCSettings
from app.oidc.tokens import Key, Token
from app.project import ConfigurationError

AUDIENCE = "my-service"
DISCOVERY, JWKS = "/realm/.well-known/openid-configuration", "/realm/keys"
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
ALGORITHMS: dict[str, Any] = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED, "Ed25519": ED}

router = APIRouter(dependencies=[SignedIn])


@router.get("/me")
async def me(user: CurrentUser) -> dict[str, Any]:
    return {"iss": user.issuer, "sub": user.subject, "email": user.email, "scopes": sorted(user.scopes)}


@router.get("/written", dependencies=[require_scope("items:write")])
async def written() -> None: ...


@router.get("/administered", dependencies=[require_role("admin")])
async def administered() -> None: ...


@router.delete("/thing", dependencies=[require_role("admin"), require_scope("b")])
async def delete(user: CurrentUser) -> None: ...


@router.websocket("/socket")
async def socket(socket: WebSocket, user: CurrentUser) -> None:
    await socket.accept()
    await socket.send_text(user.subject)


class Issuer:
    """An identity provider on this machine, which says what it is told to."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA, EC, ED]
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}  # instead of the right ones
        self.requests: list[str] = []
        self.open = threading.Event()  # while it is not set, requests hang
        self.open.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                issuer.open.wait(30)
                status, headers, body = issuer.answers.get(self.path) or issuer.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.url = ""
        self.handler = Handler
        self.start(0)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/realm"

    def start(self, port: int) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        published = [key if isinstance(key, dict) else key.as_dict(private=False) for key in self.keys]
        documents = {DISCOVERY: {"issuer": self.url, "jwks_uri": self.url + "/keys"}, JWKS: {"keys": published}}
        if path not in documents:
            return 404, {}, b""
        return 200, {"Content-Type": "application/json"}, json.dumps(documents[path]).encode()

    async def has_been_asked(self, times: int) -> None:
        while len(self.requests) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Return the claims of a good token, with some changed; MISSING takes one away."""
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "jane", "exp": int(time.time()) + 300}
        return {name: value for name, value in (good | claims).items() if value is not MISSING}

    def token(self, header: dict[str, Any] | None = None, /, **claims: Any) -> str:
        return sign({"alg": "RS256", "kid": "rsa", "typ": "at+jwt"} | (header or {}), self.claims(**claims), RSA)


class Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()


def encode(part: Any) -> bytes:
    return urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())


def sign(header: Any, content: Any, key: Any, by: str = "") -> str:
    """Return a token, signed by the algorithm `by`, whatever its header says."""
    signed = encode(header) + b"." + encode(content)
    signature = JWSRegistry.algorithms[by or header["alg"]].sign(signed, key)
    return (signed + b"." + encode(signature)).decode()


def with_hmac(header: dict[str, Any], content: Any, secret: bytes) -> str:
    signed = encode(header) + b"." + encode(content)
    return (signed + b"." + encode(hmac.digest(secret, signed, hashlib.sha256))).decode()


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    issuer = Issuer()
    monkeypatch.setenv("OIDC_ISSUER", issuer.url)
    monkeypatch.setenv("OIDC_AUDIENCE", AUDIENCE)
    yield issuer
    issuer.stop()


@pytest.fixture
def app(issuer: Issuer, app: FastAPI) -> FastAPI:
    app.include_router(router)
    return app


@pytest.fixture
def provider(app: FastAPI) -> Provider:
    known: OIDCSettings = app.state.settings.of(OIDCSettings)
    return known.provider


async def ask(client: AsyncClient, token: str, path: str = "/me") -> Response:
    return await client.get(path, headers={"Authorization": f"Bearer {token}"})


def is_refused(answer: Response) -> bool:
    """Say whether it is a 401 as it should be, that tells nothing of the token."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["status"] == answer.status_code
    sent = answer.request.headers.get("authorization", "").split(" ")[-1]
    assert len(sent) < 10 or sent not in answer.text
    return answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")


# What is taken


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_each_algorithm_is_taken(issuer: Issuer, client: AsyncClient, algorithm: str) -> None:
    key = ALGORITHMS[algorithm]
    token = sign({"alg": algorithm, "kid": key.kid}, issuer.claims(scope="a b"), key)
    answer = await ask(client, token)
    assert answer.json() == {"iss": issuer.url, "sub": "jane", "email": None, "scopes": ["a", "b"]}


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "jwt"},
        {"typ": "AT+JWT"},
        {"typ": "application/at+jwt"},
        {"b64": True, "x5t": "abc", "nonce": "of Entra", "unknown": {"to": "us"}},
        {
            "jku": "http://127.0.0.1:9/keys",
            "x5u": "http://127.0.0.1:9/keys",
            "x5c": ["x"],
            "jwk": {"kty": "oct", "k": ""},
        },
    ],
    ids=str,
)
async def test_what_a_header_says_besides_is_ignored(
    issuer: Issuer, client: AsyncClient, header: dict[str, Any]
) -> None:
    assert (await ask(client, issuer.token(header))).status_code == 200
    assert issuer.requests == [DISCOVERY, JWKS]


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({}, {"aud": ["other", AUDIENCE]}),
        ({}, {"exp": 4102444800.5, "nbf": 1.5, "iat": 0}),
        ({"typ": "JWT"}, {"typ": "Bearer", "nonce": "of an older Keycloak"}),
        ({"typ": "at+jwt"}, {"nonce": "x"}),
        ({}, {"scope": 5, "scp": [1, {}], "roles": {"a": 1}, "realm_access": [], "email": ["x"]}),
    ],
    ids=str,
)
async def test_what_a_token_may_say(
    issuer: Issuer, client: AsyncClient, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    answer = await ask(client, issuer.token(header, **claims))
    assert (answer.status_code, answer.json()["email"]) == (200, None)


async def test_clocks_may_differ(issuer: Issuer, client: AsyncClient) -> None:
    for difference, status in [(30, 200), (90, 401)]:
        early, late = time.time() - difference, time.time() + difference
        for claims in ({"exp": early}, {"nbf": late}, {"iat": late}):
            assert (await ask(client, issuer.token(**claims))).status_code == status


async def test_a_token_without_the_name_of_its_key_is_tried_with_each(issuer: Issuer, client: AsyncClient) -> None:
    issuer.keys = [RSAKey.generate_key(2048, {"kid": "other"}), RSA]
    assert (await ask(client, sign({"alg": "RS256"}, issuer.claims(), RSA))).status_code == 200
    assert is_refused(await ask(client, sign({"alg": "RS256"}, issuer.claims(), STRANGER)))


async def test_an_email_that_is_not_verified_is_none(issuer: Issuer, client: AsyncClient) -> None:
    for verified, expected in [(True, "j@example.com"), (MISSING, "j@example.com"), (False, None)]:
        answer = await ask(client, issuer.token(email="j@example.com", email_verified=verified))
        assert answer.json()["email"] == expected


# How it is sent


async def test_without_a_token_the_answer_says_how_to_ask(issuer: Issuer, client: AsyncClient) -> None:
    answer = await client.get("/me")
    assert is_refused(answer)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    answer = await ask(client, "x")
    assert is_refused(answer)
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert issuer.requests == []


async def raw(server: str, *headers: bytes) -> bytes:
    """Send a request with `headers` as they are, and return the answer."""
    host, port = server.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [b"GET /me HTTP/1.1", b"Host: test", b"Connection: close", *headers, b"", b""]
    writer.write(b"\r\n".join(lines))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  ", "  Bearer"])
async def test_the_scheme_is_bearer_however_it_is_written(issuer: Issuer, server: str, scheme: str) -> None:
    assert b" 200 " in await raw(server, f"Authorization: {scheme} {issuer.token()}".encode())
    assert b" 200 " in await raw(server, f"aUTHORIZATION: {scheme} {issuer.token()}  ".encode())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer " + b"a" * 43,
        b"Bearer " + b"a" * 9_000,
        b"Bearer " + b"a.b." * 8_000,
        b"Bearer .." + b"a" * 200_000,
        b"Bearer ..",
        b"Bearer a..a",
        b"Basic amFuZTpwYXNz",
        b"Token TOKEN",
        b"DPoP TOKEN",
        b"BearerTOKEN",
        b"Bearer\tTOKEN",
        b"Bearer TOKEN TOKEN",
        b"Bearer TOKEN,",
        b'Bearer "TOKEN"',
        b"Bearer TOKEN=",
        b"Bearer Bearer TOKEN",
        b"Bearer \xc3\xa9.\xc3\xa9.\xc3\xa9",
        b"Bearer \xff\xfe",
        b"Bearer\xa0TOKEN",
        b"Bearer TOKEN\xa0",
        "Bearer \uff21.\uff21.\uff21".encode(),
        b"Bearer a\x00.b.c",
        b"Bearer TOKEN\x00",
    ],
    ids=lambda value: f"{ascii(value)[:40]} {len(value)}",
)
async def test_what_is_no_bearer_token_is_refused(issuer: Issuer, server: str, value: bytes) -> None:
    answer = await raw(server, b"Authorization: " + value.replace(b"TOKEN", issuer.token().encode()))
    assert answer.split()[1] == (b"400" if b"\x00" in value else b"401"), answer  # NUL is no HTTP
    assert b"\x00" in value or b"www-authenticate: Bearer" in answer


async def test_a_token_elsewhere_or_twice_is_none(issuer: Issuer, client: AsyncClient, server: str) -> None:
    token = issuer.token()
    assert is_refused(await client.get("/me", params={"access_token": token, "token": token}))
    assert is_refused(await client.get("/me", headers={"Cookie": f"access_token={token}", "X-Access-Token": token}))
    assert is_refused(await client.request("GET", "/me", data={"access_token": token}))
    header = b"Authorization: Bearer "
    for other in (token, "x", issuer.token(sub="another"), ""):
        assert b" 401 " in await raw(server, header + token.encode(), header + other.encode())
        assert b" 401 " in await raw(server, header + other.encode(), header + token.encode())


async def test_a_websocket_wants_a_token(issuer: Issuer, server: str) -> None:
    headers = {"Authorization": f"Bearer {issuer.token()}"}
    async with connect(f"ws://{server}/socket", additional_headers=headers) as socket:
        assert await socket.recv() == "jane"
    with pytest.raises(InvalidStatus, match="401"):
        async with connect(f"ws://{server}/socket"):
            pass


# What is forged

Forge = Callable[[Issuer], str]


def resigned(header: dict[str, Any] | None = None, /, **claims: Any) -> Forge:
    """Return what makes a token that the provider has signed, and that is wrong all the same."""
    return lambda issuer: issuer.token(header, **claims)


def says(name: str, *values: Any) -> dict[str, Forge]:
    """Return a forger for each of the values that the claim `name` must not have."""
    return {f"{name} {value!r}": resigned(**{name: value}) for value in values}


def content(text: bytes) -> Forge:
    return lambda issuer: sign({"alg": "RS256", "kid": "rsa"}, text, RSA)


def head(header: Any) -> Forge:
    return lambda issuer: sign(header, issuer.claims(), RSA, "RS256")


def unsigned(algorithm: Any, signature: bytes = b"") -> Forge:
    def forge(issuer: Issuer) -> str:
        parts = [encode({"alg": algorithm, "kid": "rsa"}), encode(issuer.claims()), signature]
        return b".".join(parts).decode()

    return forge


def by_secret(secret: bytes, algorithm: str = "HS256") -> Forge:
    return lambda issuer: with_hmac({"alg": algorithm, "kid": "rsa"}, issuer.claims(), secret)


def with_own_key(**header: Any) -> Forge:
    """Return what makes a token that a stranger has signed, and whose header says by which key."""
    return lambda issuer: sign({"alg": "RS256"} | header, issuer.claims(), STRANGER)


def changed(change: Callable[[list[str]], Any]) -> Forge:
    """Return what changes the parts of a good token."""

    def forge(issuer: Issuer) -> str:
        parts = issuer.token().split(".")
        return str(change(parts))

    return forge


def unencoded(issuer: Issuer) -> str:
    """RFC 7797: the signature is of the claims themselves."""
    header = encode({"alg": "RS256", "kid": "rsa", "b64": False, "crit": ["b64"]})
    claims = json.dumps(issuer.claims()).encode()
    signature = JWSRegistry.algorithms["RS256"].sign(header + b"." + claims, RSA)
    return b".".join([header, encode(claims), encode(signature)]).decode()


def encrypted(issuer: Issuer) -> str:
    header = {"alg": "RSA-OAEP-256", "enc": "A128GCM", "kid": "rsa"}
    public = RSAKey.import_key(PEM)
    return jwe.encrypt_compact(header, json.dumps(issuer.claims()), public, ["RSA-OAEP-256", "A128GCM"])


def other_algorithm(name: str) -> Forge:
    return lambda issuer: sign({"alg": name, "kid": "rsa"}, issuer.claims(), RSA)


def ecdsa(signature: bytes) -> Forge:
    def forge(issuer: Issuer) -> str:
        signed = encode({"alg": "ES256", "kid": "ec"}) + b"." + encode(issuer.claims())
        return (signed + b"." + encode(signature)).decode()

    return forge


def der(issuer: Issuer) -> str:
    signed = encode({"alg": "ES256", "kid": "ec"}) + b"." + encode(issuer.claims())
    raw = JWSRegistry.algorithms["ES256"].sign(signed, EC)
    numbers = b"".join(b"\x02\x21\x00" + half for half in (raw[:32], raw[32:]))
    return (signed + b"." + encode(b"\x30\x46" + numbers)).decode()


PEM, JWK = RSA.as_pem(private=False), RSA.as_dict(private=False)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
NO_ALGORITHMS: list[Any] = ["none", "NoNe", "NONE", "", None, 0, [], ["RS256"], {}]
FORGED: dict[str, Forge] = {
    **{f"alg {alg!r}": unsigned(alg, b"AA") for alg in NO_ALGORITHMS},
    "alg none, unsigned": unsigned("none"),
    "alg RS256, unsigned": unsigned("RS256"),
    "alg none, of the right signature": lambda issuer: sign(
        {"alg": "none", "kid": "rsa"}, issuer.claims(), RSA, "RS256"
    ),
    "no alg": head({"kid": "rsa"}),
    "the public key as a secret": by_secret(PEM),
    "the public key as a secret, stripped": by_secret(PEM.strip()),
    "the public key as a secret, DER": by_secret(RSA.as_der()),
    "the public key as a secret, JWK": by_secret(json.dumps(JWK).encode()),
    "the modulus as a secret": by_secret(str(JWK["n"]).encode()),
    "no secret": by_secret(b""),
    "a secret, and RS256": by_secret(PEM, "RS256"),
    "a stranger's key": with_own_key(kid="rsa"),
    "a stranger's key, unnamed": with_own_key(),
    "a key in the header": with_own_key(kid="rsa", jwk=STRANGER.as_dict(private=False)),
    "a key in the header, unnamed": with_own_key(jwk=STRANGER.as_dict(private=False)),
    "a certificate in the header": with_own_key(kid="rsa", x5c=["MIIB"], x5t="abc"),
    "a key by another name": with_own_key(kid="rsa2"),
    **{
        f"kid {kid!r:.30}": with_own_key(kid=kid)
        for kid in ("../../../../dev/null", "' OR 1=1 --", "rsa\x00", "http://127.0.0.1:9/", "", "x" * 5_000, "\ud800")
    },
    **{
        f"kid {kid!r}": head({"alg": "RS256", "kid": kid})
        for kid in (5, None, True, ["rsa"], {"rsa": "rsa"}, "RSA", "ec")
    },
    "another key's algorithm": head({"alg": "ES256", "kid": "rsa"}),
    "EdDSA with a key of RSA": head({"alg": "EdDSA", "kid": "rsa"}),
    "PS256 called RS256": lambda issuer: sign({"alg": "RS256", "kid": "rsa"}, issuer.claims(), RSA, "PS256"),
    "RS256 called PS256": lambda issuer: sign({"alg": "PS256", "kid": "rsa"}, issuer.claims(), RSA, "RS256"),
    **{name: other_algorithm(name) for name in ("RS384", "RS512", "PS512")},
    "HS256 of a secret": lambda issuer: sign({"alg": "HS256"}, issuer.claims(), OctKey.generate_key(256)),
    "ES256, zeros": ecdsa(bytes(64)),
    "ES256, the order of the curve": ecdsa(ORDER.to_bytes(32, "big") * 2),
    "ES256, short": ecdsa(b"\x01"),
    "ES256, DER": der,
    **{
        f"crit {crit!r}": resigned({"crit": crit, "exp": 1, "b64": True})
        for crit in (["exp"], ["b64"], ["kid"], [], "exp", 5, None, [5], ["nothing"])
    },
    "b64": unencoded,
    "b64 false": resigned({"b64": False}),
    "zip": lambda issuer: sign({"alg": "RS256", "kid": "rsa", "zip": "DEF"}, b"\xabV*\xca,V\xb2R\xca", RSA),
    "encrypted": encrypted,
    **{
        f"header {text!r:.30}": head(text)
        for text in (b"[]", b'["alg"]', b'["alg", "b64"]', b'"alg"', b"5", b"null", b"")
    },
    "header of deep lists": head(b"[" * 6_000),
    "header that is no UTF-8": head(b'{"alg": "RS256", "kid": "\xff"}'),
    "header with a long number": head(b'{"alg": "RS256", "kid": "rsa", "x": ' + b"1" * 5_000 + b"}"),
    "content of deep lists": content(b"[" * 10_000),
    "content that is no UTF-8": content(b'{"sub": "\xff"}'),
    **{f"content {text!r}": content(text) for text in (b"", b"[]", b"5", b"null", b'"sub"', b"{}", b"{")},
    "JSON": lambda issuer: json.dumps({"payload": "", "signatures": []}),
    "changed content": changed(lambda parts: f"{parts[0]}.{parts[1][:-4]}AAAA.{parts[2]}"),
    "cut signature": changed(lambda parts: f"{parts[0]}.{parts[1]}.{parts[2][:-8]}"),
    "longer signature": changed(lambda parts: f"{parts[0]}.{parts[1]}.{parts[2]}AAAA"),
    "swapped parts": changed(lambda parts: f"{parts[1]}.{parts[0]}.{parts[2]}"),
    "one part more": changed(lambda parts: ".".join([*parts, "AAAA"])),
    "padded": changed(lambda parts: f"{parts[0]}=.{parts[1]}.{parts[2]}"),
    "too long": resigned(filler="x" * 20_000),
    **says("iss", MISSING, None, "", "https://evil.example", "http://127.0.0.1/realm", ["x"], {}, 5),
    "iss with a slash": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "iss in capitals": lambda issuer: issuer.token(iss=issuer.url.upper()),
    "iss in a list": lambda issuer: issuer.token(iss=[issuer.url]),
    **says("aud", MISSING, None, "", "other", [], ["other"], [AUDIENCE, 5], {AUDIENCE: 1}, True, [[AUDIENCE]]),
    **says("aud", AUDIENCE.upper(), f"{AUDIENCE} ", f"{AUDIENCE} other", AUDIENCE[:-1], f"{AUDIENCE}-2"),
    **says("exp", MISSING, None, 0, -1, "4102444800", "never", True, [4102444800], {}, 1.5, 1764000000),
    **says("exp", float("inf"), float("-inf"), float("nan")),
    "exp 1e999": lambda issuer: sign(
        {"alg": "RS256", "kid": "rsa"}, json.dumps(issuer.claims(exp="EXP")).replace('"EXP"', "1e999").encode(), RSA
    ),
    **says("nbf", 4102444800, "0", True, None, float("inf")),
    **says("iat", 4102444800, "0", False, None),
    **says("sub", MISSING, None, "", 5, ["jane"], {}),
    **{
        f"an ID token by its {name}": resigned({"typ": "JWT"}, **{name: "x"}) for name in ("nonce", "at_hash", "c_hash")
    },
    **{f"Keycloak's {kind}": resigned({"typ": "JWT"}, typ=kind) for kind in ("ID", "Refresh", "Offline", "Logout", 5)},
    **{
        f"typ {kind!r}": resigned({"typ": kind})
        for kind in ("id_token+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "", None, 5, ["JWT"], "at+jwt ")
    },
    "a log-out": resigned({"typ": "JWT"}, events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    "bound to a key": resigned(cnf={"jkt": "x"}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_refused(
    issuer: Issuer, client: AsyncClient, provider: Provider, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert (await ask(client, issuer.token())).status_code == 200
    provider.tried -= 60  # so that a key may be looked for once more
    token = forge(issuer)
    answer = await ask(client, token)
    assert is_refused(answer)
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert token not in caplog.text
    assert set(issuer.requests) == {DISCOVERY, JWKS}
    assert (await ask(client, issuer.token())).status_code == 200


@pytest.mark.parametrize("name", ["jku", "x5u"])
async def test_nobody_goes_where_a_token_says(issuer: Issuer, client: AsyncClient, name: str) -> None:
    elsewhere = Issuer()
    elsewhere.keys = [STRANGER]
    url = f"{elsewhere.url}/keys"
    assert is_refused(await ask(client, sign({"alg": "RS256", "kid": "rsa", name: url}, issuer.claims(), STRANGER)))
    claims = elsewhere.claims()
    assert is_refused(await ask(client, sign({"alg": "RS256", "kid": "rsa"}, claims, STRANGER)))
    assert elsewhere.requests == []
    elsewhere.stop()


# What it opens


@pytest.mark.parametrize(
    ("path", "claims", "status"),
    [
        ("/written", {}, 403),
        ("/written", {"scope": "items:write:all items:writ items"}, 403),
        ("/written", {"scope": "ITEMS:WRITE"}, 403),
        ("/written", {"roles": ["items:write"]}, 403),
        ("/written", {"scope": "openid items:write"}, 200),
        ("/written", {"scope": ["items:write"]}, 200),
        ("/written", {"scp": "items:read items:write"}, 200),
        ("/administered", {"scope": "admin"}, 403),
        ("/administered", {"roles": ["administrator"]}, 403),
        ("/administered", {"resource_access": {"other": {"roles": ["admin"]}}}, 403),
        ("/administered", {"roles": ["admin"]}, 200),
        ("/administered", {"realm_access": {"roles": ["x", "admin"]}}, 200),
    ],
    ids=str,
)
async def test_scopes_and_roles_open_what_they_should(
    issuer: Issuer, client: AsyncClient, path: str, claims: dict[str, Any], status: int
) -> None:
    answer = await ask(client, issuer.token(**claims), path)
    assert answer.status_code == status
    if status == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith('Bearer error="insufficient_scope"')
        assert ('scope="items:write"' in answer.headers["www-authenticate"]) == (path == "/written")
    assert is_refused(await client.get(path))


async def test_a_token_is_verified_once_whatever_a_route_asks_for(
    issuer: Issuer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[Token] = []
    is_signed_by = Token.is_signed_by

    def counted(token: Token, keys: Sequence[Key]) -> bool:
        verified.append(token)
        return is_signed_by(token, keys)

    monkeypatch.setattr(Token, "is_signed_by", counted)
    for scope, status in [("a b", 200), ("a", 403)]:
        headers = {"Authorization": f"Bearer {issuer.token(scope=scope, roles=['admin'])}"}
        assert (await client.delete("/thing", headers=headers)).status_code == status
        assert len(verified) == 1
        verified.clear()


async def test_the_document_says_where_tokens_come_from(issuer: Issuer, app: FastAPI, client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["OpenIdConnect"] == {
        "type": "openIdConnect",
        "openIdConnectUrl": f"{issuer.url}/.well-known/openid-configuration",
    }
    assert {scheme["type"] for scheme in schemes.values()} == {"openIdConnect", "http"}
    assert document["paths"]["/me"]["get"]["security"][0] == {"OpenIdConnect": []}
    assert document["paths"]["/written"]["get"]["security"][0] == {"OpenIdConnect": ["items:write"]}
    for path in ("/health/live", "/health/ready", "/docs", "/redoc"):
        assert (await client.get(path)).status_code == 200
    assert issuer.requests == []


# Keys that come and go


async def test_those_who_come_first_together_have_the_keys_fetched_once(issuer: Issuer, client: AsyncClient) -> None:
    answers = await asyncio.gather(*(ask(client, issuer.token()) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert issuer.requests == [DISCOVERY, JWKS]


async def test_an_unknown_key_is_looked_for_once_a_minute(
    issuer: Issuer, client: AsyncClient, provider: Provider
) -> None:
    assert (await ask(client, issuer.token())).status_code == 200
    for count in (1, 2):
        provider.tried -= 60
        strangers = [sign({"alg": "RS256", "kid": f"k{i}"}, issuer.claims(), STRANGER) for i in range(20)]
        assert all(is_refused(answer) for answer in await asyncio.gather(*(ask(client, token) for token in strangers)))
        assert is_refused(await ask(client, strangers[0]))
        assert issuer.requests == [DISCOVERY, JWKS] * (1 + count)


@pytest.mark.parametrize("kid", ["new", "rsa"])
async def test_a_new_key_is_found_without_a_restart(
    issuer: Issuer, client: AsyncClient, provider: Provider, kid: str
) -> None:
    assert (await ask(client, issuer.token())).status_code == 200
    provider.tried -= 60
    new = RSAKey.generate_key(2048, {"kid": kid})
    issuer.keys = [new]
    assert (await ask(client, sign({"alg": "RS256", "kid": kid}, issuer.claims(), new))).status_code == 200
    assert is_refused(await ask(client, issuer.token()))  # the old one is no longer published


async def test_a_key_that_is_withdrawn_serves_an_hour_at_most(
    issuer: Issuer, client: AsyncClient, provider: Provider
) -> None:
    assert (await ask(client, issuer.token())).status_code == 200
    issuer.keys = [EC]
    assert (await ask(client, issuer.token())).status_code == 200
    provider.fetched -= 3_601
    provider.tried -= 3_601
    assert is_refused(await ask(client, issuer.token()))


async def test_a_provider_that_is_down_at_first_is_a_503(
    issuer: Issuer, client: AsyncClient, provider: Provider
) -> None:
    issuer.stop()
    for _ in range(3):
        answer = await ask(client, issuer.token())
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
    assert is_refused(await client.get("/me"))
    assert is_refused(await ask(client, "x"))
    for path in ("/health/live", "/health/ready"):
        assert (await client.get(path)).status_code == 200
    issuer.start(issuer.port)
    assert (await ask(client, issuer.token())).status_code == 503  # so soon, it is not asked again
    assert issuer.requests == []
    provider.tried -= int(answer.headers["retry-after"])
    assert (await ask(client, issuer.token())).status_code == 200


async def test_known_keys_serve_while_the_provider_is_down(
    issuer: Issuer, client: AsyncClient, provider: Provider
) -> None:
    assert (await ask(client, issuer.token())).status_code == 200
    issuer.stop()
    for _ in range(3):
        provider.fetched -= 3_601
        provider.tried -= 3_601
        assert (await ask(client, issuer.token())).status_code == 200
        assert is_refused(await ask(client, sign({"alg": "RS256", "kid": "new"}, issuer.claims(), STRANGER)))
    issuer.start(issuer.port)
    issuer.keys = [EC]
    provider.tried -= 60
    assert is_refused(await ask(client, issuer.token()))


async def test_a_slow_provider_is_waited_for_by_those_who_need_it(
    issuer: Issuer, client: AsyncClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.open.clear()
    first = asyncio.create_task(ask(client, issuer.token()))
    await issuer.has_been_asked(1)
    for path in ("/health/live", "/api/v1/items"):
        assert (await client.get(path)).status_code == 200
    assert is_refused(await client.get("/me"))
    assert not first.done()
    issuer.open.set()
    assert (await first).status_code == 200

    issuer.open.clear()
    provider.tried -= 60
    stranger = asyncio.create_task(ask(client, sign({"alg": "RS256", "kid": "new"}, issuer.claims(), STRANGER)))
    await issuer.has_been_asked(3)
    assert (await ask(client, issuer.token())).status_code == 200
    assert not stranger.done()
    monkeypatch.setattr(provider_module, "PATIENCE", 0)
    provider.fetched -= 3_601
    assert (await ask(client, issuer.token())).status_code == 200
    assert not stranger.done()
    issuer.open.set()
    assert is_refused(await stranger)
    assert len(issuer.requests) == 4


async def test_nobody_waits_for_ever(issuer: Issuer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "TIME_LIMIT", 0.2)
    issuer.open.clear()
    assert (await ask(client, issuer.token())).status_code == 503


HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (DISCOVERY, (404, {}, b"{}")),
        (DISCOVERY, (500, {}, b"{}")),
        (DISCOVERY, (200, HTML, b"<html>")),
        (DISCOVERY, (200, {}, b"")),
        (DISCOVERY, (200, {}, b"[]")),
        (DISCOVERY, (200, {}, b"null")),
        (DISCOVERY, (200, {}, b"{}")),
        (DISCOVERY, (200, {}, b"\xff\xfe{}")),
        (DISCOVERY, (200, {}, b"[" * 500_000)),
        (DISCOVERY, (200, {}, b'{"issuer": "https://other.example", "jwks_uri": "URL/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL/", "jwks_uri": "URL/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": ["URL"], "jwks_uri": "URL/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": 5}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "http://provider.example/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "file:///etc/hostname"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "https://127.0.0.1:99999/"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "http://127.0.0.1\\r\\nX: y/"}')),
        (DISCOVERY, (200, {"Content-Length": "90000"}, b'{"issuer": "URL", "jwks_uri": "URL/ke')),
        (JWKS, (302, {"Location": "URL/other"}, b"")),
        (JWKS, (200, {}, b"{}")),
        (JWKS, (200, {}, b'{"keys": []}')),
        (JWKS, (200, {}, b'{"keys": {"kty": "RSA"}}')),
        (JWKS, (200, {}, b'{"keys": [null, 5, "RSA", [], {}, {"kty": []}, {"kty": "RSA", "n": 5}]}')),
        (JWKS, (200, {}, b" " * 2_000_000)),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_provider_that_talks_nonsense_is_a_503_and_named(
    issuer: Issuer,
    client: AsyncClient,
    caplog: pytest.LogCaptureFixture,
    path: str,
    answer: tuple[int, dict[str, str], bytes],
) -> None:
    status, headers, body = answer
    url = issuer.url
    moved = {name: value.replace("URL", url) for name, value in headers.items()}
    issuer.answers = {path: (status, moved, body.replace(b"URL", url.encode())), "/realm/other": issuer.answer(JWKS)}
    assert (await ask(client, issuer.token())).status_code == 503
    [record] = [record for record in caplog.records if record.name == "app.oidc.provider"]
    assert url in record.getMessage()
    assert len(record.getMessage()) < 500
    assert "/realm/other" not in issuer.requests


def altered(key: Any, **changes: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": "odd", **changes}


KEYS: dict[str, Any] = {
    "RSA": RSA,
    "EC": EC,
    "ED": ED,
    "P-384": ECKey.generate_key("P-384"),
    "secret": OctKey.generate_key(256),
}


@pytest.mark.parametrize(
    ("name", "changes", "algorithm"),
    [
        ("RSA", {"use": "enc"}, "RS256"),
        ("RSA", {"use": ["sig"]}, "RS256"),
        ("RSA", {"use": ["sig"], "key_ops": ["verify"]}, "RS256"),
        ("RSA", {"key_ops": ["sign"]}, "RS256"),
        ("RSA", {"key_ops": 5}, "RS256"),
        ("RSA", {"alg": "RSA-OAEP"}, "RS256"),
        ("RSA", {"alg": "RS256"}, "PS256"),
        ("RSA", {"kty": "rsa"}, "RS256"),
        ("RSA", {"kty": "EC"}, "RS256"),
        ("RSA", {"e": "AQ"}, "RS256"),
        ("RSA", {"n": "!" * 400}, "RS256"),
        ("EC", {"crv": "P-999"}, "ES256"),
        ("EC", {"crv": "P-384"}, "ES256"),
        ("EC", {"x": "AAAA"}, "ES256"),
        ("EC", {"use": "enc"}, "ES256"),
        ("ED", {"crv": "Ed449"}, "EdDSA"),
        ("ED", {"crv": "X25519"}, "EdDSA"),
        ("ED", {"alg": "EdDSA"}, "Ed25519"),
        ("ED", {"key_ops": ["sign"]}, "Ed25519"),
        ("P-384", {}, "ES384"),
        ("secret", {"alg": "HS256"}, "HS256"),
        ("secret", {}, "HS256"),
    ],
    ids=str,
)
async def test_a_key_that_is_not_for_this_verifies_nothing_and_spoils_nothing(
    issuer: Issuer, client: AsyncClient, name: str, changes: dict[str, Any], algorithm: str
) -> None:
    key = KEYS[name]
    issuer.keys = [altered(key, **changes), RSA, EC, ED]
    assert is_refused(await ask(client, sign({"alg": algorithm, "kid": "odd"}, issuer.claims(), key)))
    assert (await ask(client, issuer.token())).status_code == 200


@pytest.mark.filterwarnings("ignore:Key size")
async def test_a_short_key_verifies_nothing(issuer: Issuer, client: AsyncClient) -> None:
    short = RSAKey.generate_key(1024, {"kid": "short"})
    issuer.keys = [short, RSA]
    assert is_refused(await ask(client, sign({"alg": "RS256", "kid": "short"}, issuer.claims(), short)))


async def test_keys_may_share_a_name(issuer: Issuer, client: AsyncClient) -> None:
    issuer.keys = [altered(STRANGER, kid="rsa"), altered(EC, kid="rsa"), RSA]
    assert (await ask(client, issuer.token())).status_code == 200
    assert (await ask(client, sign({"alg": "ES256", "kid": "rsa"}, issuer.claims(), EC))).status_code == 200


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.com/realms/main",
        "https://example.eu.auth0.com/",
        "https://login.microsoftonline.com/8f0c0c4e/v2.0",
        "http://localhost:8080/realms/main",
        "http://127.0.0.1",
        "http://[::1]:8080",
    ],
)
def test_an_issuer_is_kept_to_the_letter(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OIDC_ISSUER", url)
    settings = load_settings(OIDCSettings)
    assert settings.oidc_issuer == url
    assert settings.discovery == f"{url.rstrip('/')}/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://login.example.com", "must begin with https://"),
        ("http://127.0.0.1.example.com", "must begin with https://"),
        ("http://keycloak:8080/realms/main", "must begin with https://"),
        ("login.example.com", "must look like https://"),
        ("https://", "must look like https://"),
        ("https:///realms", "must look like https://"),
        ("ftp://login.example.com", "must look like https://"),
        ("https://me:secret@login.example.com", "must look like https://"),
        ("https://login.example.com/a b", "must look like https://"),
        ("https://login.example.com/\u00e4", "must look like https://"),
        ("https://login.example.com:x", ""),
        ("https://[::1", ""),
        ("https://login.example.com?x=y", "must end before"),
        ("https://login.example.com/.well-known/openid-configuration", "must end before"),
    ],
)
def test_another_issuer_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setenv("OIDC_ISSUER", url)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(OIDCSettings)
    assert str(refused.value).startswith(f"OIDC_ISSUER: {said}")
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_both_settings_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FILE", "")
    with pytest.raises(ConfigurationError, match=r"^OIDC_ISSUER is not set\nOIDC_AUDIENCE is not set$"):
        load_settings(OIDCSettings)
