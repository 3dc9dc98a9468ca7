"""What the answers of the endpoints look like, down to the bytes.

A chunk is written for each token of each stream, so what does not change between chunks is encoded
once, and only the new text is encoded for each.
"""
