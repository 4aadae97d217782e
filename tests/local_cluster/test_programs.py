"""What a local cluster is started from."""

import asyncio
from pathlib import Path

import heliograph
from heliograph.local_cluster import programs
from heliograph.local_cluster.options import LocalClusterOptions
from heliograph.local_cluster.redis_programs import redis_stages
from tests.support.ports import free_port
from tests.support.waiting import eventually


def test_the_template_of_nginx_is_part_of_the_package() -> None:
    """Fails if an installed package, or the compiled copy of it, starts no cluster."""
    assert programs.TEMPLATE.is_relative_to(Path(heliograph.__path__[0]))
    assert "ip_hash" in programs.TEMPLATE.read_text()


async def test_a_directory_with_a_space_in_its_name(tmp_path: Path) -> None:
    """Fails if no Redis starts where the directory for temporary files (`TMPDIR`) has a space in its name."""
    directory = tmp_path / "two words"
    directory.mkdir()
    [[redis]] = redis_stages(LocalClusterOptions(redis_port=free_port()), directory)
    process = await asyncio.create_subprocess_exec(*redis.program.argv, stdout=asyncio.subprocess.DEVNULL)
    try:

        async def is_ready() -> bool:
            return await redis.problem() is None

        await eventually(is_ready)
    finally:
        process.kill()
        await process.wait()
