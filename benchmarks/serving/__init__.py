"""A load tool for servers that stream completions as OpenAI's API has it.

`workload`, `distribution`, `answer` and `summary` need nothing but Python, so that engines without
a server are driven from their own environments by the same arithmetic.
"""
