# The [Service] section, as an attribute set. node/dist/p2p-cache.service says the same for other distributions; the tests
# compare the two.
{
  Type = "notify";
  # The daemon keeps the watchdog quiet only while it answers HTTP and its network task answers it.
  WatchdogSec = 60;
  Restart = "on-failure";
  RestartSec = 1;
  # A wrong configuration does not become right by trying again.
  RestartPreventExitStatus = 64;
  TimeoutStopSec = 15;
  DynamicUser = true;
  StateDirectory = "p2p-cache";
  StateDirectoryMode = "0700";
  LimitNOFILE = 65536;
  UMask = "0077";

  CapabilityBoundingSet = "";
  DevicePolicy = "closed";
  KeyringMode = "private";
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateIPC = true;
  PrivateMounts = true;
  PrivateTmp = true;
  PrivateUsers = true;
  ProcSubset = "pid";
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  RemoveIPC = true;
  # Netlink tells which interfaces there are; the Unix socket is systemd's.
  RestrictAddressFamilies = "AF_INET AF_INET6 AF_NETLINK AF_UNIX";
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  # Hashing in the background lowers its own priority; nothing else of @resources is allowed.
  SystemCallFilter = [ "@system-service" "~@privileged @resources" "setpriority" "ioprio_set" ];
}
