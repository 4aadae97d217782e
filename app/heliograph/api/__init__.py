"""What other programs ask of the cluster over HTTP: the server API, health, metrics, the OpenAPI document."""
