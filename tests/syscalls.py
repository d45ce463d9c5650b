#!/usr/bin/env python3
"""Checks that every system call in a trace is one that a unit's SystemCallFilter= lets through.

    python3 tests/syscalls.py UNIT TRACE-OF-STRACE
"""
import re
import subprocess
import sys

# Before systemd puts the filter in place, or by the shell and strace around the daemon.
BEFORE_THE_FILTER = {"chroot", "setgroups", "setgid", "setuid", "execve"}


def groups():
    """Each group of system calls by name, as systemd lists them."""
    text = subprocess.run(["systemd-analyze", "syscall-filter"], check=True, stdout=subprocess.PIPE).stdout.decode()
    found, name = {}, None
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            found[name] = set()
        elif name and line.startswith("    ") and not line.strip().startswith("#"):
            found[name].add(line.strip())
    return found


def members(name, known):
    """The calls of a group, with those of the groups in it."""
    if not name.startswith("@"):
        return {name}
    return {call for part in known[name] for call in members(part, known)}


def allowed(unit, known):
    """What the lines of the unit let through, in their order."""
    calls = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        denies = value.startswith("~")
        for name in value.lstrip("~").split():
            calls = calls - members(name, known) if denies else calls | members(name, known)
    return calls


def daemon_calls(trace):
    """What the daemon called, from its own start on."""
    calls, started = {}, False
    for line in trace.splitlines():
        started = started or ('execve("/usr/bin/p2p-cache"' in line and line.rstrip().endswith("= 0"))
        call = re.match(r"\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", line)
        if started and call:
            calls.setdefault(call[1], line)
    return calls


def main():
    unit, trace = (open(path, encoding="utf-8", errors="replace").read() for path in sys.argv[1:3])
    calls = daemon_calls(trace)
    if len(calls) < 20:
        print(f"only {len(calls)} system calls in the trace: the daemon did not run", file=sys.stderr)
        return 1
    refused = sorted(set(calls) - allowed(unit, groups()) - BEFORE_THE_FILTER)
    for name in refused:
        print(f"the unit refuses {name}: {calls[name][:160]}", file=sys.stderr)
    print(f"system calls: {len(calls)} kinds, {len(refused)} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
