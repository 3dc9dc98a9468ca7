"""Named faults that a worker does to itself, so that tests can show what becomes of them. Where
none are asked for, nothing of this package is in anything's way."""
