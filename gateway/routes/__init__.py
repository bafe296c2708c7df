"""The routes, a file per thing they are about."""
