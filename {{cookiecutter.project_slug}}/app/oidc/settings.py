"""Whose tokens are taken, and for whom they must be."""

import re
from functools import cached_property
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from app.settings import EnvSettings

if TYPE_CHECKING:
    from app.oidc.provider import Provider

DISCOVERY = "/.well-known/openid-configuration"


def secure(url: str) -> str:
    """Return `url`.

    Raises:
        ValueError: it is none, or whoever is on its way could read and change what it leads to.
    """
    parts = urlsplit(url)
    if not re.fullmatch(r"https?://[!-~]+", url) or "@" in parts.netloc or not (parts.hostname and parts.port != 0):
        raise ValueError("must look like https://login.example.com/realms/main")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("must begin with https://, unless it leads to this machine")
    return url


def issuer(url: str) -> str:
    if DISCOVERY in url or "?" in url or "#" in url:
        raise ValueError(f"must end before {DISCOVERY}")
    return secure(url)


class OIDCSettings(EnvSettings):
    oidc_issuer: Annotated[str, AfterValidator(issuer)]
    """The identity provider, to the letter as its tokens say in `iss`, such as https://login.example.com/realms/main"""
    oidc_audience: Annotated[str, Field(min_length=1)]
    """What its tokens call this service in `aud`"""

    @property
    def discovery(self) -> str:
        return self.oidc_issuer.removesuffix("/") + DISCOVERY

    @cached_property
    def provider(self) -> "Provider":
        """The provider, as the application of these settings knows it."""
        from app.oidc.provider import Provider  # not for migrations, which read all settings: it takes 100 ms

        return Provider(self)
