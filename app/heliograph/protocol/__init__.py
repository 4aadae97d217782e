"""The meaning of operations and events: pure code without asyncio, Redis or Starlette."""
