from __future__ import annotations

import signal

# what tests start inherits which signals are ignored: a shell without job control lets background jobs ignore SIGINT,
# and nohup SIGHUP; both are taken here as they are in a terminal
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
