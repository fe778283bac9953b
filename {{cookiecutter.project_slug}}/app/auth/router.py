"""Users, their sessions and their passwords over HTTP."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Request, Response

from app.auth import links, passwords, service, throttles
from app.auth.dependencies import COOKIE, AdminUser, CurrentUser, unauthenticated
from app.auth.models import User, UserSession
from app.auth.schemas import (
    LinkCreate,
    LogIn,
    PasswordChange,
    PasswordSet,
    SessionCreated,
    SessionListed,
    SessionRead,
    UserCreate,
    UserRead,
    UserUpdate,
)
from app.auth.settings import AuthSettings
from app.db.session import DatabaseDep, ReadSessionDep, SessionDep
from app.web.dependencies import settings_of
from app.web.pagination import Cursor, Limit, Page

auth = APIRouter(prefix="/auth", tags=["auth"])
users = APIRouter(prefix="/users", tags=["users"], responses={403: {}})
AuthSettingsDep = Annotated[AuthSettings, Depends(settings_of(AuthSettings))]


@auth.post("/sessions", status_code=201, responses={401: {}, 429: {}})
async def log_in(
    data: LogIn, database: DatabaseDep, session: SessionDep, request: Request, response: Response
) -> SessionCreated:
    """Log in, with the token in the answer, or in a cookie."""
    network = throttles.network(request)
    await throttles.spend(
        database,
        (throttles.LOG_IN_FROM_NETWORK, f"{data.email} {network}"),
        (throttles.LOG_INS_OF_NETWORK, network),
        (throttles.LOG_INS_OF_ACCOUNT, data.email),
    )
    account = await service.find_account(database, User.email == data.email)
    # No connection is held meanwhile.
    verdict = await passwords.verify(account and account.password_hash, data.password.get_secret_value())
    agent = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))[:200] or None
    started = None
    if account and verdict.is_right:
        started = await service.start_session(session, account, agent, verdict.new_hash)
    if started is None:
        raise unauthenticated("the e-mail address or the password is wrong")
    row, token = started
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    if data.cookie:
        age = int(service.LIFETIME.total_seconds())
        response.set_cookie(COOKIE, token, max_age=age, path="/", secure=True, httponly=True, samesite="lax")
    return SessionCreated(**read_session(row), token=None if data.cookie else token)


def read_session(session: UserSession) -> dict[str, Any]:
    return SessionRead.model_validate(session).model_dump()


@auth.get("/sessions")
async def list_sessions(user: CurrentUser, session: SessionDep) -> list[SessionListed]:
    """List where I am logged in."""
    rows = await service.list_sessions(session, user.id)
    return [SessionListed(**read_session(row), current=row.id == user.session_id) for row in rows]


@auth.delete("/sessions/current", status_code=204, responses={403: {}})
async def log_out(user: CurrentUser, session: SessionDep, response: Response) -> None:
    """Log out."""
    await service.end_session(session, user.id, user.session_id)
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")


@auth.delete("/sessions/{session_id}", status_code=204, responses={403: {}})
async def end_session(session_id: UUID, user: CurrentUser, session: SessionDep) -> None:
    """Log out there."""
    if not await service.end_session(session, user.id, session_id):
        raise HTTPException(404, "you have no session with this id")


@auth.delete("/sessions", status_code=204, responses={403: {}})
async def end_other_sessions(user: CurrentUser, session: SessionDep) -> None:
    """Log out everywhere else."""
    await service.end_sessions(session, user.id, but=user.session_id)


@auth.get("/me")
async def read_me(user: CurrentUser) -> UserRead:
    """Read who I am."""
    return UserRead.model_validate(user)


@auth.post("/password-links", status_code=202, responses={429: {}})
async def request_password_link(
    data: LinkCreate, database: DatabaseDep, settings: AuthSettingsDep, request: Request, tasks: BackgroundTasks
) -> None:
    """Have a link to set the password sent to this address, if it is a user's, or may become one's."""
    network = throttles.network(request)
    await throttles.spend(database, (throttles.LINKS_OF_NETWORK, network), (throttles.LINKS_OF_ACCOUNT, data.email))
    tasks.add_task(links.send_link, database, settings, data.email, register=settings.registration)


@auth.post("/passwords", status_code=204, responses={400: {}, 429: {}})
async def set_password(data: PasswordSet, database: DatabaseDep, session: SessionDep, request: Request) -> None:
    """Set the password by a link, and log out everywhere."""
    await throttles.spend(database, (throttles.SETTINGS_OF_NETWORK, throttles.network(request)))
    user = await service.find_user_of_link(database, data.token)
    gone = HTTPException(400, "this link is used up, too old, or replaced by another")
    if user is None:
        raise gone
    new_hash = await passwords.hash_new(data.password.get_secret_value(), user.email)
    if not await service.use_link(session, user.id, data.token):
        raise gone
    await service.set_password(session, user.id, new_hash)


@auth.put("/password", status_code=204, responses={403: {}, 429: {}})
async def change_password(data: PasswordChange, user: CurrentUser, database: DatabaseDep, session: SessionDep) -> None:
    """Change my password, and log out everywhere else."""
    await throttles.spend(database, (throttles.CHANGES_OF_USER, str(user.id)))
    account = await service.find_account(database, User.id == user.id)
    verdict = await passwords.verify(account and account.password_hash, data.current_password.get_secret_value())
    wrong = HTTPException(403, "the current password is wrong")
    if not (account and verdict.is_right):
        raise wrong
    new_hash = await passwords.hash_new(data.password.get_secret_value(), user.email)
    if not await service.lock_account(session, account):
        raise wrong
    await service.set_password(session, account.id, new_hash, but=user.session_id)


@users.get("")
async def list_users(_: AdminUser, session: ReadSessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[UserRead]:
    """List users, the newest first."""
    rows = await service.list_users(session, before=cursor, limit=limit + 1)
    return Page[UserRead].of(rows, limit)


@users.post("", status_code=201)
async def invite_user(
    _: AdminUser,
    data: UserCreate,
    database: DatabaseDep,
    session: SessionDep,
    settings: AuthSettingsDep,
    request: Request,
    response: Response,
    tasks: BackgroundTasks,
) -> UserRead:
    """Add a user, who is sent a link to set the password."""
    user = await service.add_user(session, data.email, data.role)
    if user is None:
        raise HTTPException(409, "email already exists")
    response.headers["Location"] = f"{request.url.path}/{user.id}"
    tasks.add_task(links.send_link, database, settings, user.email)
    return UserRead.model_validate(user)


@users.patch("/{user_id}")
async def update_user(_: AdminUser, user_id: UUID, data: UserUpdate, session: SessionDep) -> UserRead:
    """Change a user's role, or disable one, who is logged out everywhere."""
    if await service.would_leave_no_admin(session, user_id, data):
        raise HTTPException(409, "no other admin would be left")
    user = await service.update_user(session, user_id, data)
    if user is None:
        raise HTTPException(404, "no user has this id")
    return UserRead.model_validate(user)


router = APIRouter()
router.include_router(auth)
router.include_router(users)
