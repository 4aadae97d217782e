"""The cluster and the browser of the end-to-end tests."""

from tests.e2e.conftest import browser, cluster

__all__ = ["browser", "cluster"]
