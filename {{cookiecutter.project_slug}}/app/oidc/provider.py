"""The identity provider: what it publishes of its keys, and the tokens that it has signed."""

import asyncio
import json
import logging
import time
from http.client import HTTPException
from typing import Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

from app.oidc.settings import OIDCSettings, secure
from app.oidc.tokens import InvalidToken, Key, Token, import_keys
from app.project import project
from app.text import one_line

FRESH = 3600  # seconds until keys are fetched anew
PAUSE, RETRY = 60, 5  # seconds between two attempts; ... while no key is known
TIME_LIMIT, PATIENCE = 10, 1  # seconds that a request waits for keys; ... if those that are known may do
MAX_SIZE = 1_000_000  # bytes of a document

logger = logging.getLogger(__name__)


class ProviderUnavailable(Exception):
    """The provider does not say what its keys are; the message says why."""


class Provider:
    """The provider, which is asked for its keys when a token needs them, by one thread at a time."""

    def __init__(self, settings: OIDCSettings) -> None:
        self.settings = settings
        self.keys: list[Key] = []
        self.fetched = self.tried = float("-inf")  # by the monotonic clock
        self.fetching: asyncio.Task[None] | None = None

    async def claims(self, text: str) -> dict[str, Any]:
        """Return what an access token says that the provider has signed for this service.

        Raises:
            InvalidToken: it is none.
            ProviderUnavailable: no key is known.
        """
        token = Token.of(text)
        if not self.keys:
            await self.fetch(RETRY, TIME_LIMIT)
            if not self.keys:
                raise ProviderUnavailable
        elif time.monotonic() - self.fetched > FRESH:
            await self.fetch(PAUSE, PATIENCE)
        if not token.is_signed_by(self.keys):
            known = self.keys
            await self.fetch(PAUSE, TIME_LIMIT)
            if self.keys is known or not token.is_signed_by(self.keys):
                raise InvalidToken("no key of the provider verifies it")
        return token.claims(self.settings.oidc_issuer, self.settings.oidc_audience)

    async def fetch(self, pause: float, patience: float) -> None:
        """Fetch the keys, unless that was tried in the last `pause` seconds; wait for them until it has taken `patience`."""
        now = time.monotonic()
        if self.fetching is None or (self.fetching.done() and now - self.tried >= pause):
            self.tried = now
            self.fetching = asyncio.create_task(self.update())
        if not self.fetching.done():  # it goes on if nobody waits any longer: a thread cannot be stopped
            await asyncio.wait({self.fetching}, timeout=max(0, self.tried + patience - now))

    async def update(self) -> None:
        try:
            self.keys = await asyncio.to_thread(published_keys, self.settings)
            self.fetched = time.monotonic()
        except ProviderUnavailable as error:
            logger.error("%s", error)


def published_keys(settings: OIDCSettings) -> list[Key]:
    """Return the keys that the provider signs with.

    Raises:
        ProviderUnavailable: it does not answer, or not as OpenID Connect Discovery has it.
    """
    discovery = read(settings.discovery)
    if discovery.get("issuer") != settings.oidc_issuer:
        raise ProviderUnavailable(f"{settings.discovery} is of another issuer: {discovery.get('issuer')!r:.200}")
    url = discovery.get("jwks_uri")
    try:
        keys = import_keys(read(secure(str(url))).get("keys"))
    except ValueError as error:
        raise ProviderUnavailable(f"{settings.discovery}: its jwks_uri {one_line(error)}") from None
    if not keys:
        raise ProviderUnavailable(f"{url} has no key that a token may be signed with")
    return keys


class NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: it may lead from https to http."""


def read(url: str) -> dict[str, Any]:
    """Return the JSON object at `url`.

    Raises:
        ProviderUnavailable: there is none.
    """
    # Some firewalls refuse what calls itself Python-urllib.
    request = Request(url, headers={"Accept": "application/json", "User-Agent": str(project()["name"])})
    content, deadline = b"", time.monotonic() + TIME_LIMIT
    try:
        with build_opener(NoRedirects).open(request, timeout=TIME_LIMIT / 2) as response:
            while chunk := response.read1(MAX_SIZE):
                content += chunk
                if len(content) > MAX_SIZE or time.monotonic() > deadline:
                    raise ValueError("too long, or too slow")
        document = json.loads(content)
    except (OSError, HTTPException, RecursionError, ValueError) as error:
        raise ProviderUnavailable(f"{url}: {one_line(error)}") from None
    if not isinstance(document, dict):
        raise ProviderUnavailable(f"{url} is no JSON object")
    return document
