"""The kinds of channels. What distinguishes one from another is one object; the next kind is a new file."""
