#!/usr/bin/env python3
"""Checks that the workspace's crates depend on each other only along the edges of docs/architecture.md."""
import json
import subprocess
import sys

ALLOWED = {
    "p2p-cache-protocol": set(),
    "p2p-cache-discovery": {"p2p-cache-protocol"},
    "p2p-cache-http-gateway": {"p2p-cache-protocol"},
    "p2p-cache": {"p2p-cache-protocol", "p2p-cache-discovery", "p2p-cache-http-gateway"},
    "p2p-cache-simulations": {"p2p-cache", "p2p-cache-discovery", "p2p-cache-protocol"},
    "p2p-cache-tests": {"p2p-cache", "p2p-cache-http-gateway", "p2p-cache-protocol"},
}
# protocol is pure: no runtime, no sockets.
FORBIDDEN_IN_PROTOCOL = {"tokio", "libp2p", "axum", "reqwest", "sled", "mio", "socket2"}


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def reachable(graph, root):
    seen, todo = set(), [root]
    while todo:
        for dependency in graph[todo.pop()]:
            if dependency not in seen:
                seen.add(dependency)
                todo.append(dependency)
    return seen


def main():
    data = metadata()
    members = {p["name"]: p for p in data["packages"] if p["id"] in data["workspace_members"]}
    faults = [f"crate {name} is not in the table of edges" for name in members.keys() - ALLOWED.keys()]
    for name, package in members.items():
        inside = {d["name"] for d in package["dependencies"] if d["name"] in members}
        for extra in sorted(inside - ALLOWED.get(name, set())):
            faults.append(f"{name} -> {extra} is not an allowed edge")

    names = {p["id"]: p["name"] for p in data["packages"]}
    graph = {
        node["id"]: [d["pkg"] for d in node["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
        for node in data["resolve"]["nodes"]
    }
    protocol = members.get("p2p-cache-protocol")
    if protocol:
        pulled = {names[i] for i in reachable(graph, protocol["id"])}
        for extra in sorted(pulled & FORBIDDEN_IN_PROTOCOL):
            faults.append(f"p2p-cache-protocol is pure but depends on {extra}")

    for fault in faults:
        print(f"edges: {fault}", file=sys.stderr)
    print(f"edges: {len(members)} crates checked, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
