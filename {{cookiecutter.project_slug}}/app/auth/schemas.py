"""What clients send and receive as users, sessions and passwords."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import MISSING, BaseModel, ConfigDict, Field, SecretStr

from app.auth.fields import Email
from app.auth.models import UserRole

# A password that is all one needs has 15 characters: https://pages.nist.gov/800-63-4/sp800-63b.html#passwordver
SHORTEST, LONGEST = 15, 1000
GivenPassword = Annotated[SecretStr, Field(max_length=LONGEST)]
NewPassword = Annotated[SecretStr, Field(min_length=SHORTEST, max_length=LONGEST)]


class LogIn(BaseModel):
    email: Email
    password: GivenPassword
    cookie: bool = False


class LinkCreate(BaseModel):
    email: Email


class PasswordSet(BaseModel):
    token: Annotated[str, Field(max_length=LONGEST)]
    password: NewPassword


class PasswordChange(BaseModel):
    current_password: GivenPassword
    password: NewPassword


class SessionRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


class SessionCreated(SessionRead):
    token: str | None


class SessionListed(SessionRead):
    current: bool


class UserCreate(BaseModel):
    email: Email
    role: UserRole = UserRole.USER


class UserUpdate(BaseModel):
    role: UserRole | MISSING = MISSING
    is_active: bool | MISSING = MISSING


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    role: UserRole
    is_active: bool
    created_at: datetime
    updated_at: datetime
