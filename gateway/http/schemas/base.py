"""What the bodies of all requests have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """An object of a request, read strictly."""

    # No coercion: "5" is not 5. What is not declared is kept, to be refused or warned of.
    model_config = ConfigDict(strict=True, extra="allow")
