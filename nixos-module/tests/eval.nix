# Evaluates the module without nixpkgs, against the few library functions that it uses, and checks what comes out:
#   nix-instantiate --eval --strict nixos-module/tests/eval.nix
let
  lib = {
    mkEnableOption = description: { default = false; inherit description; };
    mkIf = condition: content: if condition then content else { };
    mkOption = option: option;
    mkBefore = list: list;
    types = {
      package = "package";
      bool = "bool";
      str = "string";
      enum = values: values;
      submodule = module: module;
    };
  };
  pkgs = {
    p2p-cache = "/nix/store/00000000000000000000000000000000-p2p-cache";
    formats.toml = _: { type = "toml"; generate = name: value: "/etc/${name}:${builtins.toJSON value}"; };
  };
  evaluate = services:
    import ../default.nix { inherit lib pkgs; config = { inherit services; }; };
  options = (evaluate { p2p-cache = { }; }).options.services.p2p-cache;
  defaults = builtins.mapAttrs (_: option: option.default) options.settings.type.options;
  with' = overrides: (evaluate {
    p2p-cache = { enable = true; package = options.package.default; openFirewall = false; settings = defaults; } // overrides;
  }).config;
  enabled = with' { };
  unit = enabled.systemd.services.p2p-cache.serviceConfig;
  disabled = (evaluate { p2p-cache.enable = false; }).config;
  check = name: condition: if condition then name else throw "nixos-module: ${name}";
in
[
  (check "off by default" (options.enable.default == false && disabled == { }))
  (check "the substituter is the gateway" (enabled.nix.settings.substituters == [ "http://127.0.0.1:5380" ]))
  (check "shares with the local network only" (defaults.share == "lan"))
  (check "the firewall stays closed unless asked" (enabled.networking.firewall == { }))
  (check "the firewall opens when asked"
    ((with' { openFirewall = true; }).networking.firewall.allowedTCPPorts == [ 5381 ]))
  (check "the unit serves with the generated file"
    (unit.ExecStart == "${pkgs.p2p-cache}/bin/p2p-cache serve --config /etc/p2p-cache.toml:${builtins.toJSON defaults}"))
  (check "the unit is ready when the daemon says so" (unit.Type == "notify"))
  (check "the unit is hardened"
    (unit.DynamicUser && unit.NoNewPrivileges && unit.ProtectSystem == "strict" && unit.CapabilityBoundingSet == ""))
]
