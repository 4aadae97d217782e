"""What a client waits for is sooner here."""

import pytest

SOONER = {
    "heliograph.client.connection.connection.OVERLAP_S": 0.2,
    "heliograph.client.connection.client.ASK_AGAIN_S": 0.2,
    "heliograph.client.connection.connection.OTHER_TOKEN_S": 0.05,
    "heliograph.client.connection.connection.RENEW_AGAIN_S": 0.1,
    "heliograph.client.connection.requests.PAUSE_S": 0.1,
    "heliograph.client.connection.transport_selector.UPGRADE_FIRST_S": 0.4,
}


@pytest.fixture
def sooner_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in SOONER.items():
        monkeypatch.setattr(name, seconds)
