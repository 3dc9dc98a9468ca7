"""What came of a load: figures, what the server says of itself, what limited it, and pages of it.

`rows` is one row a request, from which all figures are worked out; `load_report` is the whole, as
JSON; `comparison` puts two of them side by side. All of it is pure but for reading and writing
files.
"""
