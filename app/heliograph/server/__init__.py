"""The HTTP server around the application: uvicorn, with our own sockets, limits on requests, and a drain on SIGTERM."""
