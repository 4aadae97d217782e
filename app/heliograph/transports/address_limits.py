"""What this replica allows the clients of one address."""

from dataclasses import dataclass

from heliograph.settings import LimitSettings
from heliograph.telemetry import Telemetry
from heliograph.transports.addresses import Addresses
from heliograph.transports.failed_attempts import FailedAttempts
from heliograph.transports.newcomers import Newcomers
from heliograph.transports.requests import RequestRate


@dataclass(frozen=True)
class AddressLimits:
    """The counts by address. Every endpoint has the same ones, so that no path is a way around a limit."""

    connections: Addresses
    newcomers: Newcomers
    requests: RequestRate
    failed_attempts: FailedAttempts

    @classmethod
    def of(cls, limits: LimitSettings, telemetry: Telemetry) -> "AddressLimits":
        rate = limits.requests_per_second_per_address
        return cls(
            Addresses(limits.connections_per_address),
            Newcomers(limits.newcomers_per_address, telemetry),
            RequestRate(rate, "address", "REQUESTS_PER_SECOND_PER_ADDRESS", telemetry),
            FailedAttempts(limits.failed_attempts_per_minute, telemetry),
        )
