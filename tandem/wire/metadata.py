"""Keys of what comes beside a message: gRPC's metadata, and HTTP's headers alike."""

TENANT_KEY = "x-tandem-tenant"
"""Names the tenant that a request is of."""
