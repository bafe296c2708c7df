"""The definitions of waiting rooms, and what must outlive Redis of their draws.

They are kept and passed on as the message frontrow.concert.v1.Room, whose fields are the domain.
"""
