"""What a local cluster is started from."""

from pathlib import Path

import pytest

from heliograph.local_cluster import programs
from heliograph.local_cluster.options import CannotStart
from tests.support.cluster import ROOT


@pytest.mark.parametrize("package", ["app/heliograph", "build/compiled/0123456789abcdef/heliograph"])
def test_the_template_of_nginx_is_found(package: str, tmp_path: Path) -> None:
    """Fails if a cluster cannot be started from the checkout, or from the compiled copy of the package in it."""
    template = tmp_path / "nginx" / "nginx.conf.template"
    template.parent.mkdir()
    template.touch()
    assert programs.find_template(tmp_path / package / "local_cluster" / "programs.py") == template


def test_this_checkout_has_the_template() -> None:
    """Fails if the package has moved away from it."""
    assert programs.find_template(Path(programs.__file__)) == ROOT / "nginx" / "nginx.conf.template"


def test_a_package_alone_says_what_it_lacks(tmp_path: Path) -> None:
    """Fails if nobody is told that an installed package starts no cluster."""
    with pytest.raises(CannotStart, match="from a checkout"):
        programs.find_template(tmp_path / "lib" / "heliograph" / "local_cluster" / "programs.py")
