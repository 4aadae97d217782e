"""The endpoints for clients. Only this layer and those above use Starlette."""
