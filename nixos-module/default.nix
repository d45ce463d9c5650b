# services.p2p-cache: a node as a hardened system service, and the local substituter that goes with it.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkEnableOption mkIf mkOption mkBefore types;
  cfg = config.services.p2p-cache;
  settingsFormat = pkgs.formats.toml { };
  settingsFile = settingsFormat.generate "p2p-cache.toml" cfg.settings;
in
{
  options.services.p2p-cache = {
    enable = mkEnableOption "p2p-cache, which fetches store paths from other nodes before it asks the central cache";

    package = mkOption {
      type = types.package;
      default = pkgs.p2p-cache or (pkgs.callPackage ./package.nix { });
      description = "The package that provides the p2p-cache command.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Open port 5381 (TCP and UDP) for other nodes and port 5353 (UDP) for multicast discovery.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = settingsFormat.type;
        options.http = mkOption {
          type = types.str;
          default = "127.0.0.1:5380";
          description = "Address of the gateway that the Nix client of this machine talks to.";
        };
        options.share = mkOption {
          type = types.enum [ "none" "lan" "public" ];
          default = "lan";
          description = "How far the signed paths that this machine fetched may travel.";
        };
      };
      default = { };
      example = { max-store-size = "50GiB"; upload-rate = "20Mbit/s"; };
      description = "The configuration file; docs/configuration.md lists every key.";
    };
  };

  config = mkIf cfg.enable {
    # Asked first; caches that are configured elsewhere (cache.nixos.org is by default) stay listed after it.
    nix.settings.substituters = mkBefore [ "http://${cfg.settings.http}" ];

    networking.firewall = mkIf cfg.openFirewall {
      allowedTCPPorts = [ 5381 ];
      allowedUDPPorts = [ 5353 5381 ];
    };

    systemd.services.p2p-cache = {
      description = "Peer-to-peer artifact cache";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/p2p-cache serve --config ${settingsFile}";
        Restart = "on-failure";
        RestartSec = 2;
        TimeoutStopSec = 15;
        DynamicUser = true;
        StateDirectory = "p2p-cache";
        StateDirectoryMode = "0700";
        LimitNOFILE = 65536;
        UMask = "0077";

        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
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
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_NETLINK" "AF_UNIX" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" "~@privileged" "~@resources" ];
      };
    };
  };
}
