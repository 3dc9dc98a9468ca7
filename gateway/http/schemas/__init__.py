"""The bodies of requests. Only types are checked here. The caps are in `gateway.limits`, for both
protocols, but a list is read no further than it can be right."""
