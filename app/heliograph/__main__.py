"""`python -m app` is `heliograph`."""

from app.cli import main

main()
