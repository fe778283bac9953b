"""Who calls: what a path function or a router asks for."""

import re
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from app.auth import service
from app.auth.models import UserRole
from app.auth.service import Caller

COOKIE = "__Host-session"
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # what is none costs no query
SAFE = ("GET", "HEAD", "OPTIONS")

bearer = HTTPBearer(auto_error=False, description="The token of a log-in")
cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="... or its cookie, for pages of the same origin")


def unauthenticated(detail: str = "log in first") -> HTTPException:
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


async def current_user(
    connection: HTTPConnection,
    header: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    cookie: Annotated[str | None, Depends(cookie)],
) -> Caller:
    """Return who calls, by the token of a session.

    Raises:
        HTTPException: 401, the request has none that counts; 403, a page of another origin sends the cookie.
    """
    token = header.credentials if header else cookie
    if token and TOKEN.fullmatch(token):
        is_safe = connection.scope.get("method") in SAFE  # which a WebSocket is not
        if not header and not is_safe and is_of_another_page(connection):
            raise HTTPException(403, "a page of another origin may not use the cookie")
        if caller := await service.find_caller(connection.state.database, token):
            return caller
    raise unauthenticated()


def is_of_another_page(connection: HTTPConnection) -> bool:
    if site := connection.headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = connection.headers.get("origin")  # of an older browser
    return origin is not None and origin.partition("://")[2].lower() != connection.headers.get("host", "").lower()


CurrentUser = Annotated[Caller, Depends(current_user)]
SignedIn = Depends(current_user)


def require(role: UserRole, *others: UserRole) -> Any:
    """Return a dependency that lets in users with one of the roles, and answers all others 403."""
    roles = (role, *others)

    async def current_user_with_role(user: CurrentUser) -> Caller:
        if user.role not in roles:
            raise HTTPException(403, f"only for the role {' or '.join(roles)}")
        return user

    return Depends(current_user_with_role)


AdminUser = Annotated[Caller, require(UserRole.ADMIN)]
