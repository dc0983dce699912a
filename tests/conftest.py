from __future__ import annotations

import signal

# a shell without job control starts background jobs with SIGINT ignored, and what tests start would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
