"""The application as servers find it."""

import tomllib

import pytest
from fastapi import FastAPI

from app import main
from app.settings import ROOT


def test_the_app_of_the_module_is_built_once_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@database.invalid/nothing")
    assert isinstance(main.app, FastAPI)
    assert main.app is main.app
    del main.app


def test_a_service_without_a_database_exits_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SystemExit, match="DATABASE_URL and DATABASE_URL_PROD are not set"):
        _ = main.app


def test_an_error_in_a_domain_is_not_taken_for_a_missing_app(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise AttributeError("a typo")

    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@database.invalid/nothing")
    monkeypatch.setattr(main, "import_all_routers", broken)
    with pytest.raises(RuntimeError, match="cannot be built"):
        _ = main.app


async def test_the_api_has_the_name_of_the_project(app: FastAPI) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = app.openapi()["info"]
    assert info["title"] == pyproject["tool"]["app"]["title"]
    assert info["version"] == pyproject["project"]["version"]
