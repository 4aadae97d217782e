"""Long polls, one after the other."""

from typing import Final

import msgspec

from heliograph.client.connection.http_link import HttpLink
from heliograph.protocol.identity import personal_channel

WAIT_S: Final = 25
SLACK_S: Final = 5.0


class PollLink(HttpLink):
    """Read `/api/poll`: each answer has the cursor for the next poll. See `Link`."""

    transport = "poll"
    received_path = "received"

    async def follow(self) -> None:
        query = {**self.begin(), "wait": "0"}  # the first answer comes at once, and names the replica
        first = True
        while not self.ended():
            async with self.request(query, first=first) as response:
                answer = msgspec.json.decode(await response.aread())
            if self.ended():
                return
            first = False
            user, replica, cursor, events = (answer[name] for name in ("user", "replica", "cursor", "events"))
            if not self.replica:
                # The cursor is that after the events. If they say where the user's own channel begins, use that.
                is_said = any(event.get("channel") == personal_channel(user) for event in events)
                hello = {"type": "connected", "user": user, "replica": replica, "cursor": "" if is_said else cursor}
                self.welcome(hello)
            self.serve_by(replica)
            for event in events:
                if self.ended():
                    return
                self.deliver(event)
            query |= {"cursor": cursor, "wait": str(WAIT_S)}
            self.within_s = WAIT_S + SLACK_S
