"""Event documents: what operators write, and how the catalogue follows from it.

`document` has the form, `reading` finds every mistake, `expansion` lists the seats, `plan` says
what differs from what is stored, `repository` stores it. See docs/adr/0053-event-documents.md.
"""
