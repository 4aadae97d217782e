"""The plain JSON protocol (docs/protocol.md): its frames, its cursors, and the codec that reads and writes them."""
