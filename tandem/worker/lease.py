"""Who controls a worker, and until when."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.errors import Fenced


@dataclass(frozen=True, slots=True)
class Controller:
    """A gateway, as it introduces itself. `term` fences: none older than the newest is obeyed; in a
    term, no `stream` older than the newest, unless it is 0."""

    controller_id: str
    term: int
    lease_s: float
    stream: int = 0


class ControllerLease:
    """At most one controller holds a worker. Time comes from the caller, in monotonic seconds."""

    def __init__(self) -> None:
        self.holder: Controller | None = None
        self.expires_at = 0.0
        self.newest_term = -1

    def acquire(self, controller: Controller, now: float) -> bool:
        """Take the lease, or take it up again. False if it is taken up again in the same term, so
        that what the controller had here still stands. Raises `Fenced` if another controller holds
        it, or the term is over, or its lease, or the stream is older than the holder's."""
        holder = self.holder
        if holder and holder.controller_id != controller.controller_id and now < self.expires_at:
            raise Fenced(
                f"controller {holder.controller_id} holds this worker",
                retry_after_s=self.expires_at - now,
            )
        resumes = holder is not None and (
            (holder.controller_id, holder.term) == (controller.controller_id, controller.term)
        )
        if controller.term < self.newest_term:
            raise Fenced(f"term {controller.term} is over, the newest was {self.newest_term}")
        if controller.term == self.newest_term and not resumes:
            raise Fenced(f"the lease of term {controller.term} is over")
        if holder and resumes and 0 < controller.stream < holder.stream:
            raise Fenced(f"stream {controller.stream} of this term is older than {holder.stream}")
        self.holder = controller
        self.newest_term = controller.term
        self.renew(now)
        return not resumes

    def renew(self, now: float) -> None:
        """The holder was heard of."""
        if self.holder:
            self.expires_at = now + self.holder.lease_s

    def is_expired(self, now: float) -> bool:
        return self.holder is not None and now >= self.expires_at

    def release(self) -> None:
        """The holder is gone."""
        self.holder = None
