"""The composition of a replica: the only place that names concrete classes and connects them.

Three steps, which `application.py` joins: the backends, the cluster, the endpoints.
"""
