"""The hot paths measured: saturated by wrk, or at a low rate by k6 (`make bench`)."""
