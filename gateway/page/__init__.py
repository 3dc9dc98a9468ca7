"""The page at the gateway's root: what it is made of, and what it is told while somebody looks.

`viewers.py` counts who looks and makes a tick four times a second for all of them; `feed.py` says
what is in a tick; `static/` is what the browser gets, as it is.
"""
