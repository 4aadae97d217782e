"""A reader of deltas, written from the format's description and not from the writer."""

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def apply_delta(old: bytes, delta: bytes) -> bytes:
    """The text that the delta makes out of `old`. Raises ValueError if it is no delta of it."""
    at = 0

    def number() -> int:
        nonlocal at
        value = 0
        while chr(delta[at]) in ALPHABET:
            value = value * 64 + ALPHABET.index(chr(delta[at]))
            at += 1
        return value

    def sign(wanted: str) -> str:
        nonlocal at
        at += 1
        if delta[at - 1 : at].decode() not in wanted:
            raise ValueError(f"{delta!r} has no {wanted!r} before {at}")
        return delta[at - 1 : at].decode()

    size = number()
    sign("\n")
    new = bytearray()
    while True:
        count = number()
        match sign("@:;"):
            case "@":
                offset = number()
                sign(",")
                if offset + count > len(old):
                    raise ValueError("copies from beyond the end")
                new += old[offset : offset + count]
            case ":":
                new += delta[at : at + count]
                at += count
            case _:
                filled = bytes(new) + b"\0" * (-len(new) % 4)
                total = sum(int.from_bytes(filled[i : i + 4]) for i in range(0, len(filled), 4))
                if (len(new), total % 2**32, at) != (size, count, len(delta)):
                    raise ValueError("another size or checksum")
                return bytes(new)
