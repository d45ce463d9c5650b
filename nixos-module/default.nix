# services.p2p-cache: a node as a hardened system service, and the local substituter that goes with it.
{ config, lib, pkgs, options, ... }:

let
  inherit (lib)
    concatStringsSep elem filter filterAttrs genAttrs hasPrefix hasSuffix mapAttrs mapAttrsToList mkBefore mkDefault mkIf
    optional optionalAttrs removePrefix removeSuffix toInt unique;
  cfg = config.services.p2p-cache;

  # `localhost` reads better in `nix config show`, and is what the address is.
  substituter = "http://${if hasPrefix "127.0.0.1:" cfg.settings.http
    then "localhost:${removePrefix "127.0.0.1:" cfg.settings.http}"
    else cfg.settings.http}";
  isLocal = hasPrefix "127." cfg.settings.http || hasPrefix "[::1]:" cfg.settings.http;

  # Ports of addresses such as /ip4/0.0.0.0/tcp/5381 and /ip4/0.0.0.0/udp/5381/quic-v1.
  portsOf = transport:
    let
      parts = map (builtins.match ".*/${transport}/([0-9]+)(/.*)?") cfg.settings.listen;
      found = map (match: toInt (builtins.elemAt match 0)) (filter (match: match != null) parts);
    in
    if cfg.settings ? listen then unique found else [ 5381 ];
  firewall = {
    allowedTCPPorts = portsOf "tcp";
    allowedUDPPorts = optional (!(cfg.settings.no-mdns or false)) 5353 ++ portsOf "udp";
  };
  interfaces = cfg.settings.interfaces or [ ];

  # The key that each option stands for, and its value.
  keys = {
    share = { key = "share"; value = cfg.share; };
    maxUploadSpeed = { key = "upload-rate"; value = orUnlimited cfg.maxUploadSpeed; };
    maxStoreSize = { key = "max-store-size"; value = orUnlimited cfg.maxStoreSize; };
    peers = { key = "peer"; value = cfg.peers; };
    origins = { key = "origin"; value = cfg.origins; };
    trustedPublicKeys = { key = "trusted-public-key"; value = cfg.trustedPublicKeys; };
    extraSharedKeys = { key = "extra-shared-keys"; value = cfg.extraSharedKeys; };
    interfaces = { key = "interfaces"; value = cfg.interfaces; };
    metered = { key = "metered"; value = cfg.metered; };
  };
  orUnlimited = value: if value == null then "unlimited" else value;
  # What is as the daemon has it anyway is left out, and so is what a secret supplies: everybody can read the file.
  isNeeded = option: entry:
    !(cfg.credentials ? ${entry.key}) && entry.value != { peers = [ ]; extraSharedKeys = [ ]; interfaces = [ ]; metered = false; }.${option} or null;
  values = builtins.listToAttrs
    (mapAttrsToList (_: entry: { name = entry.key; inherit (entry) value; }) (filterAttrs isNeeded keys));

  # Options that were written down, as opposed to those that have their default.
  written = filterAttrs (option: _: options.services.p2p-cache.${option}.highestPrio < (lib.mkOptionDefault null).priority) keys;
  share = cfg.settings.share or cfg.share;

  twice = builtins.attrNames
    (filterAttrs (_: entry: cfg.settings ? ${entry.key} && cfg.settings.${entry.key} != entry.value) written);
  openSecrets = filter (key: cfg.settings ? ${key}) (builtins.attrNames cfg.credentials)
    ++ builtins.attrNames (filterAttrs (_: entry: cfg.credentials ? ${entry.key}) written);
  secretsInStore = filter (path: hasPrefix builtins.storeDir (toString path))
    (optional (cfg.environmentFile != null) cfg.environmentFile ++ builtins.attrValues cfg.credentials);
  ownOrigins = filter (url: elem (removeSuffix "/" url) [ substituter "http://${cfg.settings.http}" ]) cfg.origins;
  quoted = names: concatStringsSep ", " (map (name: "`${toString name}`") names);
in
{
  imports = [ ./options.nix ];

  config = mkIf cfg.enable {
    services.p2p-cache.settings = mapAttrs (_: mkDefault) values;

    assertions = [
      {
        assertion = twice == [ ];
        message = ''
          services.p2p-cache: ${quoted twice} and ${quoted (map (option: "settings.${keys.${option}.key}") twice)} differ.
          Remove one of the two.
        '';
      }
      {
        assertion = !(cfg.metered && share == "public");
        message = ''
          services.p2p-cache: a `metered` connection uploads nothing, so `share` cannot be "public".
          Set share = "lan" (nothing is uploaded while metered is true), or metered = false.
        '';
      }
      {
        assertion = secretsInStore == [ ];
        message = ''
          services.p2p-cache: ${quoted secretsInStore} would be copied to the Nix store, where everybody can read it.
          Write the path as a string ("/run/secrets/…") and put the file there by other means.
        '';
      }
      {
        assertion = openSecrets == [ ];
        message = ''
          services.p2p-cache: ${quoted openSecrets} has a value beside the one that `credentials` supplies.
          Remove it: everybody can read the configuration file.
        '';
      }
      {
        assertion = ownOrigins == [ ];
        message = ''
          services.p2p-cache: origins names this node itself (${quoted ownOrigins}), which would ask itself for what it lacks.
          Name the cache behind it, for example "https://cache.nixos.org".
        '';
      }
      {
        assertion = !(cfg.settings ? state-dir);
        message = ''
          services.p2p-cache: the service keeps its state in /var/lib/p2p-cache, so `settings.state-dir` cannot be set.
          Remove it; to use another disk mount it at /var/lib/private/p2p-cache.
        '';
      }
      {
        assertion = !hasSuffix ":0" cfg.settings.http;
        message = ''
          services.p2p-cache: `settings.http` has port 0, and Nix would not know where to find the node.
          Set a port, for example "127.0.0.1:5380".
        '';
      }
    ];

    warnings =
      optional (cfg.maxUploadSpeed != null && share == "none") ''
        services.p2p-cache: `maxUploadSpeed` has no effect, because share = "none" uploads nothing. Remove one of the two.
      ''
      ++ optional (cfg.extraSharedKeys != [ ] && share == "none") ''
        services.p2p-cache: `extraSharedKeys` has no effect, because share = "none" gives nothing away. Remove one of the two.
      ''
      ++ optional (!isLocal) ''
        services.p2p-cache: `settings.http` is ${cfg.settings.http}: other machines that reach that address read what
        `share` and the shared keys let them, and make this one fetch it. Set it to 127.0.0.1:5380 unless that is meant.
      ''
      ++ optional (!elem substituter config.nix.settings.substituters) ''
        services.p2p-cache: `nix.settings.substituters` was forced and lacks ${substituter}, so Nix never asks the node.
        Add it to that list.
      '';

    # Asked first, also because its priority is 30 and that of cache.nixos.org 40; caches that are configured elsewhere
    # (cache.nixos.org is by default) stay listed after it and are asked when the node has nothing to say.
    nix.settings.substituters = mkBefore [ substituter ];

    networking.firewall = mkIf cfg.openFirewall (
      if interfaces == [ ] then firewall else { interfaces = genAttrs interfaces (_: firewall); }
    );

    # `p2p-cache status` and its like find the node by the same file.
    environment.systemPackages = [ cfg.package ];
    environment.etc."p2p-cache/p2p-cache.toml".source = cfg.configFile;

    # systemd listens before the daemon runs and while it restarts, so that Nix waits a moment instead of going elsewhere.
    systemd.sockets.p2p-cache = {
      description = "Peer-to-peer artifact cache, for clients of this machine";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ cfg.settings.http ];
    };

    systemd.services.p2p-cache = {
      description = "Peer-to-peer artifact cache";
      documentation = [ "man:p2p-cache(1)" ];
      wantedBy = [ "multi-user.target" ];
      requires = [ "p2p-cache.socket" ];
      after = [ "network.target" "p2p-cache.socket" ];
      # One that cannot start takes the socket down with it after a few attempts: a port that refuses costs Nix nothing, one
      # that accepts and stays silent costs it minutes.
      startLimitIntervalSec = 60;
      startLimitBurst = 5;
      serviceConfig = import ./service.nix // {
        ExecStart = "${cfg.package}/bin/p2p-cache serve --config ${cfg.configFile}";
        # Fails, and says why, when the configuration is faulty.
        ExecReload = "${cfg.package}/bin/p2p-cache reload --config ${cfg.configFile}";
      } // optionalAttrs (cfg.environmentFile != null) {
        EnvironmentFile = toString cfg.environmentFile;
      } // optionalAttrs (cfg.credentials != { }) {
        LoadCredential = mapAttrsToList (key: path: "${key}:${toString path}") cfg.credentials;
      };
    };
  };
}
