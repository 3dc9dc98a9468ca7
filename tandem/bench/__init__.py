"""The load generator: arrivals, workloads, what clients saw, and goodput.

It drives servers that stream completions as OpenAI's API has it. `workload`, `distribution`,
`answer`, `summary` and `closed_loop` need nothing but Python, so that engines without a server are
driven from their own environments by the same arithmetic.
"""
