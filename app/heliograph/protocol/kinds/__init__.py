"""The kinds of channels. Each kind is one object; the next kind is a new file."""
