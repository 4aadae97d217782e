"""The OpenAPI document as a module of its own."""

import subprocess
import sys


def test_the_document_is_made_by_a_module_that_can_be_imported_alone() -> None:
    """Fails if `heliograph.api.openapi` needs whoever imports it to have been imported before."""
    code = "import heliograph.api.openapi as o; print(len(o.openapi_document()['paths']))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 10
