"""What a local cluster is started from."""

from pathlib import Path

import heliograph
from heliograph.local_cluster import programs


def test_the_template_of_nginx_is_part_of_the_package() -> None:
    """Fails if an installed package, or the compiled copy of it, starts no cluster."""
    assert programs.TEMPLATE.is_relative_to(Path(heliograph.__path__[0]))
    assert "ip_hash" in programs.TEMPLATE.read_text()
