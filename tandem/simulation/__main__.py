"""`python -m tandem.simulation`: works tasks out, a line of JSON each, and answers with a line."""

from tandem.process.lifetime import end_with_parent

# Before the imports that take their time.
end_with_parent()

import gc  # noqa: E402
import sys  # noqa: E402

from tandem.simulation.tasks import answer  # noqa: E402

# Looking for cycles among so many objects is not cheap, and a task leaves few.
gc.disable()
for line in sys.stdin:
    print(answer(line), flush=True)
    gc.collect()
