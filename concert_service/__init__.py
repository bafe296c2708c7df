"""Concerts, their dates, their seats and prices: facts that hardly change.

Owns the MariaDB schema `concert`. Calls nobody; publishes nothing. Whether a seat is still to be
had is the reservation service's to say.
"""
