"""`tandem top`: the page's picture in a terminal, from the page's own feed.

`gateway_page.py` reads the feed and gives orders, `history.py` keeps what came of late, `view.py`
is what the user has chosen to see, and what keys do. `picture.py` draws all of it for a size, from
`lanes.py` and `panels.py`; `top.py` puts them together over a terminal, which `keyboard.py` reads.
"""
