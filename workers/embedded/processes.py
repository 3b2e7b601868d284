"""Child processes that never outlive their parent."""

import asyncio
import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

STOP_GRACE = timedelta(seconds=10)  # from SIGTERM to SIGKILL

# linux/prctl.h, linux/capability.h
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1

PYTHON = (sys.executable, "-I", "-S", "-c")

# Asks the kernel for SIGKILL when the parent ends, then executes the program under the same process id. It runs in a
# separate interpreter (15 ms) because a preexec_fn is unsafe in a process with threads, and Temporal's SDK has many. If
# the parent ended before prctl, getppid() shows it, and the program is not started.
TIE_TO_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# Turns root into another user that can still reach programs and data in folders that only root may enter: it keeps the
# one capability for that, and passes it on to what is executed later. Where root lacks it or may not pass it on, the
# child continues without it. Must run before TIE_TO_PARENT: the kernel clears the parent-death signal when the user
# changes.
BECOME_USER = f"""
import ctypes, os, sys
libc, mask = ctypes.CDLL(None), 1 << {CAP_DAC_OVERRIDE}
libc.prctl({PR_SET_KEEPCAPS}, 1, 0, 0, 0)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
libc.capset((ctypes.c_uint32 * 2)({CAPABILITY_VERSION_3}, 0), (ctypes.c_uint32 * 6)(mask, mask, mask))
libc.prctl({PR_CAP_AMBIENT}, {PR_CAP_AMBIENT_RAISE}, {CAP_DAC_OVERRIDE}, 0, 0)
os.execv(sys.argv[3], sys.argv[3:])
"""


async def spawn(
    command: Sequence[str],
    *,
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> asyncio.subprocess.Process:
    """Start a program, named by its absolute path, as a child in a session of its own.

    Ctrl-C therefore reaches only the parent, which ends its children in the order it wants. When the parent dies before
    it has done so, for example by SIGKILL, Linux kills the child; on other systems the child stays. To Linux the parent
    is the *thread* that called: call this from the main thread's event loop.

    Stdout and stderr are appended to the file `log`; without one they go to the pipe `stdout`, which the caller must
    read.

    Root on Linux may choose another `user` for the child. Raises `KeyError` when this machine has no such user.
    """
    if sys.platform == "linux":
        command = [*PYTHON, TIE_TO_PARENT, str(os.getpid()), *command]
    if user is not None:
        entry = pwd.getpwnam(user)
        command = [*PYTHON, BECOME_USER, str(entry.pw_uid), str(entry.pw_gid), *command]
    with contextlib.ExitStack() as opened:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if log is None else opened.enter_context(log.open("ab")),
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


async def stop(
    process: asyncio.subprocess.Process, *, grace: timedelta = STOP_GRACE, by: signal.Signals = signal.SIGTERM
) -> None:
    """Ask a child of `spawn` to end, and kill it and its whole session if it has not ended within `grace`."""
    if process.returncode is not None:
        return
    try:
        # Not process.terminate(): it polls with waitpid, and may take the exit status that asyncio is waiting for.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, by)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                await process.wait()
    finally:  # also when cancelled: a second Ctrl-C means "now"
        await kill(process)


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a child of `spawn` and its whole session, and wait for its end."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
