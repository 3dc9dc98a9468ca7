"""Work that is cut among a kernel's programs: whichever of them ends last puts it together."""

import triton
import triton.language as tl


@triton.jit
def is_last(count, number):
    """Whether this is the last of `number` programs to ask; what each of them has stored is then
    there for it, if it is not read from a processor's own cache. `count` is 0 before and after."""
    tl.debug_barrier()
    last = tl.atomic_add(count, 1, sem="acq_rel") == number - 1
    if last:
        tl.store(count, 0)
    return last
