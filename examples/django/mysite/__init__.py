"""A site whose users are notified live."""
