"""The hot paths measured with wrk, beside a FastAPI route that does nothing (`make bench`)."""
