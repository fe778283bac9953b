"""Access tokens: what may sign them, and what they must say."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import import_key
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

# What each kind of key may sign with; EdDSA is the older name of Ed25519.
ALGORITHMS = {("RSA", None): ["RS256", "PS256"], ("EC", "P-256"): ["ES256"], ("OKP", "Ed25519"): ["EdDSA", "Ed25519"]}
MODULUS = 342  # characters of base64 that 2,048 bits have
LEEWAY = 60  # seconds that two clocks may differ
MAX_LENGTH = 16_384
JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
OF_ID_TOKENS = {"nonce", "at_hash", "c_hash"}
OF_NO_BEARER = {"cnf", "events"}  # bound to a key of the client, which nobody checks here; a message, as of a log-out


class InvalidToken(Exception):
    """A token is not taken; the message says why, and quotes nothing of it."""


@dataclass(frozen=True)
class Key:
    """A public key, with an algorithm that it may sign with."""

    algorithm: str
    kid: str | None
    value: Any


def import_keys(published: Any) -> list[Key]:
    """Return the keys of a JWK Set that may sign tokens; whatever else is in it counts for nothing."""
    found = []
    for data in published if isinstance(published, list) else ():
        try:
            algorithms = ALGORITHMS[data["kty"], data.get("crv")]
            if data["kty"] == "RSA" and len(data["n"]) < MODULUS:
                continue
            key = import_key(data)
            key.check_key_op("verify")
        except (JoseError, KeyError, TypeError, ValueError):
            continue
        found += [Key(fitting.name, key.kid, key) for fitting in JWSRegistry.filter_algorithms(key, algorithms)]
    return found


@dataclass(frozen=True)
class Token:
    """A signed JWT, of which nothing is believed yet."""

    header: dict[str, Any]
    content: bytes
    signed: bytes
    signature: bytes

    @classmethod
    def of(cls, text: str) -> "Token":
        """Return what `text` encodes.

        Raises:
            InvalidToken: it is no JWT, or its header says that it is none to take.
        """
        try:
            if len(text) > MAX_LENGTH or not JWT.fullmatch(text):
                raise ValueError
            signed, _, _ = text.encode().rpartition(b".")
            head, content, signature = map(urlsafe_b64decode, text.encode().split(b"."))
            header = json.loads(head)
        except (RecursionError, ValueError):
            raise InvalidToken("it is no signed JWT") from None
        if not isinstance(header, dict) or not isinstance(header.get("kid", ""), str):
            raise InvalidToken("it is no signed JWT")
        if not any(header.get("alg") in names for names in ALGORITHMS.values()):
            raise InvalidToken("its algorithm is not taken")
        # A key, or the address of one, that a header brings is ignored.
        if "crit" in header or header.get("b64", True) is not True:
            raise InvalidToken("its header has what is not understood")
        # Of RFC 9068, or of nothing in particular; another type is for another use (RFC 8725, 3.11).
        if not re.fullmatch(r"(application/)?(at\+)?jwt", str(header.get("typ", "JWT")), re.IGNORECASE):
            raise InvalidToken("it is no access token")
        return cls(header, content, signed, signature)

    def is_signed_by(self, keys: Sequence[Key]) -> bool:
        """Say whether one of `keys` has signed it, which must fit its algorithm and have its `kid`, if it names one."""
        # joserfc's own decode() follows `b64` and warns of EdDSA, and some headers are a TypeError to it.
        algorithm, kid = self.header["alg"], self.header.get("kid")
        verify = JWSRegistry.algorithms[algorithm].verify
        fitting = (key for key in keys if key.algorithm == algorithm and kid in (None, key.kid))
        return any(verify(self.signed, self.signature, key.value) for key in fitting)

    def claims(self, issuer: str, audience: str) -> dict[str, Any]:
        """Return what it says; whether it is signed is for the caller to know.

        Raises:
            InvalidToken: it is not from `issuer` or not for `audience`, not yet or no longer valid, or no access token.
        """
        rules = JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            claims: dict[str, Any] = json.loads(self.content)
            rules.validate(claims)
        except ExpiredTokenError:
            raise InvalidToken("it has expired") from None
        except ClaimError as error:
            raise InvalidToken(f"it has no valid {error.claim}") from None
        except (AttributeError, RecursionError, ValueError):  # no JSON, or no object
            raise InvalidToken("it holds no claims") from None
        # An ID token tells the client who has logged in, and opens nothing. RFC 9068 (`typ` in the header) and Keycloak (in the
        # claims) tell the two apart; elsewhere, what ID tokens alone have does, and that their audience is the client.
        is_access_token = claims.get("typ") == "Bearer" or "at+" in self.header.get("typ", "").lower()
        if claims.keys() & OF_NO_BEARER or not (is_access_token or claims.keys().isdisjoint(OF_ID_TOKENS | {"typ"})):
            raise InvalidToken("it is no access token")
        return claims
