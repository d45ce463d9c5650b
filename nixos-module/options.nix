# What services.p2p-cache can be told. Every option but the first few is a key of the configuration file; the rest of the
# keys are reached by `settings`.
{ config, lib, pkgs, ... }:

let
  inherit (lib) literalExpression mkEnableOption mkOption types;
  cfg = config.services.p2p-cache;
  settingsFormat = pkgs.formats.toml { };
in
{
  options.services.p2p-cache = {
    enable = mkEnableOption "p2p-cache, which fetches store paths from other machines before it asks the central cache";

    package = mkOption {
      type = types.package;
      default = pkgs.p2p-cache or (pkgs.callPackage ./package.nix { });
      defaultText = literalExpression "pkgs.p2p-cache";
      description = "The package that provides the `p2p-cache` command.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Open the ports on which other machines reach this one (those of `settings.listen`, 5381 by default, TCP and UDP)
        and port 5353 (UDP) for discovery in the local network; only on `interfaces` where some are named. Without it this
        machine still fetches from machines that it can reach, but finds none by itself and none reaches it.
      '';
    };

    share = mkOption {
      type = types.enum [ "none" "lan" "public" ];
      default = "lan";
      description = ''
        How far the public store paths of this machine may travel: to nobody, to machines met at a loopback, link-local or
        private address, or to everybody.
      '';
    };

    maxUploadSpeed = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "20Mbit/s";
      description = "Limit of all uploads to other machines together, with its unit; null is no limit.";
    };

    maxStoreSize = mkOption {
      type = types.nullOr types.str;
      default = "50GiB";
      example = "200GiB";
      description = "Disk space for what was fetched, with its unit; the least recently used makes room. Null is no limit.";
    };

    peers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/dns4/cache.office.example/tcp/5381" ];
      description = "Machines to stay connected with, where multicast does not reach; each as its ready line shows it.";
    };

    origins = mkOption {
      type = types.listOf types.str;
      default = [ "https://cache.nixos.org" ];
      example = [ "https://cache.example.org" "https://cache.nixos.org" ];
      description = ''
        Binary caches that are asked for what no peer has, the preferred one first. A URL with a password does not belong
        here, since the Nix store is readable by everybody: see `credentials`.
      '';
    };

    trustedPublicKeys = mkOption {
      type = types.listOf types.str;
      default = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      description = "Keys of which one must have signed what comes from another machine. Nix checks its own list after that.";
    };

    extraSharedKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      description = "Keys beside that of cache.nixos.org: what they signed is given to every machine that `share` admits.";
    };

    interfaces = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "enp1s0" ];
      description = "Network interfaces on which other machines are met; an empty list is all of them. Origins are not affected.";
    };

    metered = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the connection is paid for by volume: then nothing is uploaded and nothing announced.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = settingsFormat.type;
        options.http = mkOption {
          type = types.str;
          default = "127.0.0.1:5380";
          description = "Address for the Nix of this machine. Whoever reaches it can read everything that is held.";
        };
      };
      default = { };
      example = { no-dht = true; upload-slots = 4; };
      description = ''
        Further keys of the configuration file, which docs/configuration.md lists. They are checked when the system is
        built: an unknown key or a bad value fails the build and says what to write instead.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/secrets/p2p-cache.env";
      description = "File with `P2P_CACHE_…` variables, read when the service starts; it is not copied to the Nix store.";
    };

    credentials = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = { origin = "/run/secrets/p2p-cache-origins"; write-token-file = "/run/secrets/p2p-cache-write-token"; };
      description = ''
        Keys of the configuration file whose value is a secret, and the files that hold the values: a list is separated by
        white space, and of `write-token-file` it is the file itself. systemd hands them to the service alone
        (`LoadCredential`).
      '';
    };

    configFile = mkOption {
      type = types.path;
      readOnly = true;
      internal = true;
      # The value has been checked; a package for another kind of machine cannot be run to check it.
      default =
        let
          written = settingsFormat.generate "p2p-cache.toml" cfg.settings;
          checkable = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
        in
        if !checkable then written else pkgs.runCommandLocal "p2p-cache.toml" { } ''
          # Keys that secrets supply are missing here and checked when the service starts.
          STATE_DIRECTORY=/var/lib/p2p-cache ${cfg.package}/bin/p2p-cache config --check --config ${written}
          cp ${written} $out
        '';
      defaultText = literalExpression "the checked settings";
      description = "The configuration file.";
    };
  };
}
