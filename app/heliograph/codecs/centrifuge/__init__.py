"""The protocol of Centrifuge client SDKs: commands and replies, as JSON or Protobuf (docs/centrifuge.md)."""
