"""Who calls, by the access token of a request: `SignedIn`, `CurrentUser` and `require_scope` are for the routes of any domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Security
from fastapi.openapi.models import OpenIdConnect as OpenIdConnectModel
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.environment import load_settings
from app.oidc.provider import RETRY, ProviderUnavailable
from app.oidc.settings import OIDCSettings
from app.oidc.tokens import InvalidToken


@dataclass(frozen=True, slots=True)
class User:
    """Who calls, as the provider says: a person, or a client of its own accord."""

    issuer: str
    subject: str  # never another's with this issuer, and all that identifies
    scopes: frozenset[str]
    roles: frozenset[str]
    email: str | None  # may change, and be another's one day
    claims: Mapping[str, Any]

    @classmethod
    def of(cls, claims: Mapping[str, Any]) -> "User":
        email, realm = claims.get("email"), claims.get("realm_access")
        return cls(
            issuer=claims["iss"],
            subject=claims["sub"],
            scopes=words(claims.get("scope")) | words(claims.get("scp")),
            roles=words(claims.get("roles")) | words(realm.get("roles") if isinstance(realm, dict) else None),
            email=email if isinstance(email, str) and claims.get("email_verified") is not False else None,
            claims=claims,
        )


def words(claim: Any) -> frozenset[str]:
    """Return the words of a claim, which some providers write as a list, and some as a text."""
    found = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return frozenset(word for word in found if isinstance(word, str))


def refusal(status: int, detail: str, error: str = "", **parameters: str) -> HTTPException:
    """Return a refusal that says how to ask, as RFC 6750 has it."""
    challenge = ", ".join(f'{name}="{value}"' for name, value in ({"error": error} | parameters).items() if value)
    return HTTPException(status, detail, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()})


async def current_user(connection: HTTPConnection) -> User:
    """Return who calls.

    Raises:
        HTTPException: 401 without a valid access token, and 503 while no key to verify it with can be had.
    """
    headers = connection.headers.getlist("authorization")
    scheme, _, token = "".join(headers).partition(" ")
    if not headers or scheme.lower() != "bearer":
        raise refusal(401, "there is no access token")
    if len(headers) > 1:
        raise refusal(401, "there are two tokens", "invalid_token")
    settings = connection.state.settings.of(OIDCSettings)
    try:
        return User.of(await settings.provider.claims(token.strip(" ")))
    except InvalidToken as error:
        raise refusal(401, f"the access token is not valid: {error}", "invalid_token") from None
    except ProviderUnavailable:
        detail = "the identity provider does not say what its keys are"
        raise HTTPException(503, detail, {"Retry-After": str(RETRY)}) from None


pasted = HTTPBearer(scheme_name="AccessToken", auto_error=False)  # for the documentation, where one may paste a token


class OpenIdConnect(SecurityBase):
    """What /openapi.json says of it, with the address that the settings have by then."""

    scheme_name = "OpenIdConnect"

    @property
    def model(self) -> OpenIdConnectModel:  # type: ignore[override]
        return OpenIdConnectModel(openIdConnectUrl=load_settings(OIDCSettings).discovery)

    # FastAPI calls a scheme for each set of scopes that a route asks for, but what depends on none once in a request.
    async def __call__(
        self, user: Annotated[User, Depends(current_user)], _: Annotated[object, Depends(pasted)]
    ) -> User:
        return user


open_id_connect = OpenIdConnect()
CurrentUser = Annotated[User, Depends(open_id_connect)]
SignedIn = Depends(open_id_connect)


def require_scope(*scopes: str) -> Any:
    """Return a dependency, for one route or a router, that answers 403 unless the token has all of `scopes`."""

    async def check(user: CurrentUser) -> User:
        if not user.scopes.issuperset(scopes):
            raise refusal(
                403, f"the access token needs {' '.join(scopes)}", "insufficient_scope", scope=" ".join(scopes)
            )
        return user

    return Security(check, scopes=scopes)


def require_role(*roles: str) -> Any:
    """Return a dependency that answers 403 unless the caller has one of `roles`."""

    async def check(user: CurrentUser) -> User:
        if user.roles.isdisjoint(roles):
            raise refusal(403, f"this is for {' or '.join(roles)}", "insufficient_scope")
        return user

    return Depends(check)
