"""What a path function may ask for besides a session."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.environment import SettingsT
from app.settings import Settings


async def get_settings(connection: HTTPConnection) -> Settings:
    """Return the settings that the application was made of."""
    settings: Settings = connection.state.settings
    return settings


def settings_of(domain: type[SettingsT]) -> Callable[[HTTPConnection], Awaitable[SettingsT]]:
    """Return a dependency that gives the settings of a domain, by the class in its `settings` module."""

    async def get_domain_settings(connection: HTTPConnection) -> SettingsT:
        settings: Settings = connection.state.settings
        return settings.of(domain)

    return get_domain_settings


SettingsDep = Annotated[Settings, Depends(get_settings)]
