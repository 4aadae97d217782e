"""`heliograph up`: Redis, N replicas and nginx as local processes, under one supervisor.

    LocalCluster(LocalClusterOptions(port=9000)).run()    the order in which things start and stop: cluster.py
        └ Child(Program(…))                               one process, kept alive: child.py

`programs.py` has the command lines and readiness checks, `machine.py` finds free ports and installed programs,
`terminal.py` shows the output of all programs.
"""

from heliograph.local_cluster.cluster import LocalCluster
from heliograph.local_cluster.options import LocalClusterOptions

__all__ = ["LocalCluster", "LocalClusterOptions"]
