"""A stand-in for the identity provider: `headers=sign_in(app, scope="items:write")` makes a request one of a user's."""

import time
from typing import Any

from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import OKPKey

from app.oidc.settings import OIDCSettings
from app.oidc.tokens import import_keys

KEY = OKPKey.generate_key("Ed25519")


def sign_in(app: FastAPI, **claims: Any) -> dict[str, str]:
    """Have `app` know the key of the stand-in, and return the headers of a request with a token that has `claims`."""
    settings = app.state.settings.of(OIDCSettings)
    settings.provider.keys, settings.provider.fetched = import_keys([KEY.as_dict()]), time.monotonic()
    defaults = {
        "iss": settings.oidc_issuer,
        "aud": settings.oidc_audience,
        "sub": "somebody",
        "exp": int(time.time()) + 300,
    }
    token = jwt.encode({"alg": "Ed25519", "typ": "at+jwt"}, defaults | claims, KEY, ["Ed25519"])
    return {"Authorization": f"Bearer {token}"}
