"""The endpoints through which clients come. Starlette lives here and nowhere below."""
