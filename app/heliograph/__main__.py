"""`python -m heliograph` is `heliograph`."""

import sys


def main() -> None:
    """Run the command, or say what to install if only the package for publishers is there."""
    try:
        from heliograph.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("heliograph"):
            raise
        sys.exit(
            f"heliograph: the command needs {error.name}, which is not installed; install it with what else a server "
            "needs: pip install 'heliograph[server]'"
        )
    run()


if __name__ == "__main__":
    main()
