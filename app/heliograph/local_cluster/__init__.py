"""`heliograph up`: Redis, N replicas and nginx as local processes, under one supervisor.

    LocalCluster(LocalClusterOptions(port=9000)).run()    the order in which things start and stop: cluster.py
        └ Child(Program(…))                               one process, kept alive: child.py

`programs.py` says what is started and when it is ready, `machine.py` what this machine has to offer (free
ports, installed programs), `terminal.py` shows what everyone prints.
"""

from heliograph.local_cluster.cluster import LocalCluster
from heliograph.local_cluster.options import LocalClusterOptions

__all__ = ["LocalCluster", "LocalClusterOptions"]
