"""A fleet in virtual time: the gateway's scheduler and the workers' states are the real ones; what
takes time (steps, transfers, messages) takes it from a clock that jumps from event to event."""
