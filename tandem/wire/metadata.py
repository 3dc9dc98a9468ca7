"""Keys of what comes beside a message: gRPC's metadata, and HTTP's headers alike."""

import re

TENANT_KEY = "x-tandem-tenant"
"""Names the tenant that a request is of."""

TENANT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

AUTHORIZATION = "authorization"
"""`Bearer`, a space and an API key."""

BEARER = "bearer"

API_KEY_VARIABLE = "TANDEM_API_KEY"
"""Where clients find the key that they send, and the gateway the one that it asks for."""
