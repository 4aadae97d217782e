"""The HTTP server around the application: uvicorn, our own sockets, limits on requests, and a drain on SIGTERM."""
