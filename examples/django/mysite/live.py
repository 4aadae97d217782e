"""One publisher for each process. It connects when it is first used."""

from heliograph.client.publisher import Publisher

publisher = Publisher(deadline_s=2)  # reads HELIOGRAPH_REDIS__URL; a request waits no longer than that
