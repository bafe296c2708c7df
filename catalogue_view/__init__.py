"""What callers of concert_service need to keep copies of its catalogue up to date.

`follower` receives each change, within a second of its commit. What a caller does about it is its
own: it drops caches, or takes a new definition of a room. See
docs/adr/0054-following-the-catalogue.md.
"""
