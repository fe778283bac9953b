"""The probes tell an orchestrator that the service is well."""

import pytest
from httpx2 import AsyncClient


@pytest.mark.parametrize("probe", ["live", "ready"])
async def test_a_migrated_service_is_live_and_ready(client: AsyncClient, probe: str) -> None:
    response = await client.get(f"/health/{probe}")
    assert (response.status_code, response.json()["status"]) == (200, "ok")
