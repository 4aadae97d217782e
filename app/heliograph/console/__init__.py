"""The console: a page that shows the cluster and sends messages through it."""
