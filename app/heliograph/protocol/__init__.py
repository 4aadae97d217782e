"""What the words on the wire mean: pure code without asyncio, Redis or Starlette."""
