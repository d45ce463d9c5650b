# Evaluates the module without nixpkgs and checks what comes out:
#   nix-instantiate --eval --strict nixos-module/tests/eval.nix
let
  shim = import ./shim.nix;
  inherit (shim) evaluate options pkgs;
  inherit (builtins) any attrNames elem filter fromJSON isString length match readFile split tryEval;

  enabled = user: evaluate { user = { enable = true; } // user; };
  default = enabled { };
  configFile = default.config.services.p2p-cache.configFile;
  unitOf = configuration: configuration.systemd.services.p2p-cache;
  unit = (unitOf default).serviceConfig;

  contains = part: text: length (split (escape part) text) > 1;
  escape = builtins.replaceStrings [ "." "/" "[" "]" "(" ")" "+" "*" ] [ "\\." "/" "\\[" "\\]" "\\(" "\\)" "\\+" "\\*" ];
  # Every fault says what to do: its second line is an order.
  refused = part: configuration:
    any (message: contains part message && match ".*\n *(Remove|Set|Write|Name) .*" message != null) configuration.failed;
  warned = part: configuration: any (contains part) configuration.warnings;
  fails = value: !(tryEval (builtins.deepSeq value true)).success;

  # The lines of a section of a unit file, without comments and empty lines.
  sectionOf = name: text:
    let
      all = filter (line: isString line && line != "" && match "#.*" line == null) (split "\n" text);
      step = state: line:
        if match "\\[.*]" line != null then state // { inside = line == "[${name}]"; }
        else if state.inside then state // { found = state.found ++ [ line ]; }
        else state;
    in
    (builtins.foldl' step { inside = false; found = [ ]; } all).found;
  without = prefix: filter (line: match "${prefix}.*" line == null);
  sorted = builtins.sort builtins.lessThan;
  dist = readFile ../../node/dist/p2p-cache.service;

  vm = import ./vm.nix { inherit pkgs; };
  nodeOf = name: vm.nodes.${name} { inherit (shim) lib; inherit pkgs; };

  flake = (import ../../flake.nix).outputs {
    self = { };
    nixpkgs = { inherit (shim) lib; legacyPackages = { x86_64-linux = pkgs; aarch64-linux = pkgs; }; };
  };
  package = flake.packages.x86_64-linux.default;

  check = name: condition: if condition then name else throw "nixos-module: ${name}";
in
[
  (check "it is off by default and then does nothing"
    (options.enable.default == false && removeAttrs (evaluate { }) [ "config" "settings" "failed" ] == { }))
  (check "every option is typed and documented"
    (builtins.all (name: options.${name} ? type && options.${name} ? description && options.${name} ? default) (attrNames options)))

  # Nix.
  (check "the node is the first substituter, and cache.nixos.org stays listed"
    (default.config.nix.settings.substituters == [ "http://localhost:5380" "https://cache.nixos.org/" ]))
  (check "another address is the substituter as it is written"
    ((enabled { settings.http = "[::1]:99"; }).nix.settings.substituters == [ "http://[::1]:99" ]))

  # Settings.
  (check "by default the file says what the options say" (default.settings == {
    http = "127.0.0.1:5380";
    share = "lan";
    upload-rate = "unlimited";
    max-store-size = "50GiB";
    origin = [ "https://cache.nixos.org" ];
    trusted-public-key = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
  }))
  (check "every option is a key of the file" ((enabled {
    share = "none";
    maxUploadSpeed = "20Mbit/s";
    maxStoreSize = null;
    peers = [ "/ip4/192.0.2.7/tcp/5381" ];
    origins = [ ];
    trustedPublicKeys = [ "a:b" ];
    extraSharedKeys = [ "c:d" ];
    interfaces = [ "eth0" ];
    metered = true;
    settings.no-dht = true;
  }).settings == {
    http = "127.0.0.1:5380";
    share = "none";
    upload-rate = "20Mbit/s";
    max-store-size = "unlimited";
    peer = [ "/ip4/192.0.2.7/tcp/5381" ];
    origin = [ ];
    trusted-public-key = [ "a:b" ];
    extra-shared-keys = [ "c:d" ];
    interfaces = [ "eth0" ];
    metered = true;
    no-dht = true;
  }))
  (check "a setting beats the default of its option" ((enabled { settings.share = "none"; }).settings.share == "none"))
  (check "the settings are checked when the system is built"
    (contains "bin/p2p-cache config --check --config /generated/p2p-cache.toml" configFile.script))
  (check "the command line finds the node by the same file"
    (default.environment.etc."p2p-cache/p2p-cache.toml".source == configFile
      && elem pkgs.p2p-cache default.environment.systemPackages))
  (check "a wrong type is refused" (fails (enabled { share = "everybody"; }).settings))
  (check "an unknown option is refused" (fails (enabled { uploadSpeed = "1MB/s"; })))

  # Secrets.
  (check "a secret is handed over as a credential and stands in no file" (
    let configuration = enabled { credentials.origin = "/run/secrets/origins"; }; in
    (unitOf configuration).serviceConfig.LoadCredential == [ "origin:/run/secrets/origins" ]
      && !(configuration.settings ? origin) && configuration.failed == [ ]
  ))
  (check "an environment file is read by systemd"
    ((unitOf (enabled { environmentFile = "/run/secrets/env"; })).serviceConfig.EnvironmentFile == "/run/secrets/env"))
  (check "without secrets the unit names none" (!(unit ? EnvironmentFile) && !(unit ? LoadCredential)))

  # Firewall.
  (check "the firewall stays closed unless asked" (default.networking.firewall == { }))
  (check "the firewall opens when asked" ((enabled { openFirewall = true; }).networking.firewall == {
    allowedTCPPorts = [ 5381 ];
    allowedUDPPorts = [ 5353 5381 ];
  }))
  (check "the firewall opens the ports that are listened on" ((enabled {
    openFirewall = true;
    settings = { no-mdns = true; listen = [ "/ip4/0.0.0.0/tcp/77" "/ip6/::/tcp/77" "/ip4/0.0.0.0/udp/78/quic-v1" ]; };
  }).networking.firewall == { allowedTCPPorts = [ 77 ]; allowedUDPPorts = [ 78 ]; }))
  (check "the firewall opens on the named interfaces only"
    ((enabled { openFirewall = true; interfaces = [ "eth0" ]; }).networking.firewall == {
      interfaces.eth0 = { allowedTCPPorts = [ 5381 ]; allowedUDPPorts = [ 5353 5381 ]; };
    }))

  # Contradictions.
  (check "what is sound passes" (default.failed == [ ] && default.warnings == [ ]))
  (check "an option and its setting must not differ" (refused "`share`" (enabled { share = "lan"; settings.share = "none"; })))
  (check "an option and its setting may agree" ((enabled { share = "none"; settings.share = "none"; }).failed == [ ]))
  (check "metered and public contradict" (refused "metered" (enabled { metered = true; share = "public"; })))
  (check "secrets in the store are refused"
    (refused "everybody" (enabled { environmentFile = "${builtins.storeDir}/x"; })
      && refused "everybody" (enabled { credentials.origin = "${builtins.storeDir}/x"; })))
  (check "a secret that is also written down is refused"
    (refused "`swarm-salt`" (enabled { credentials.swarm-salt = "/run/x"; settings.swarm-salt = "open"; })
      && refused "`origins`" (enabled { credentials.origin = "/run/x"; origins = [ "https://a" ]; })))
  (check "the node is not its own origin" (refused "localhost:5380" (enabled { origins = [ "http://localhost:5380/" ]; })))
  (check "the state directory is the service's" (refused "state-dir" (enabled { settings.state-dir = "/srv"; })))
  (check "a port that nobody knows is refused" (refused "port 0" (enabled { settings.http = "127.0.0.1:0"; })))
  (check "what has no effect is said"
    (warned "maxUploadSpeed" (enabled { share = "none"; maxUploadSpeed = "1MB/s"; })
      && warned "extraSharedKeys" (enabled { share = "none"; extraSharedKeys = [ "a:b" ]; })))
  (check "an address for everybody is warned of" (warned "0.0.0.0" (enabled { settings.http = "0.0.0.0:5380"; })))
  (check "a forced list without the node is warned of"
    (warned "nix.settings.substituters" (evaluate { user.enable = true; forced = [ "https://cache.nixos.org/" ]; })))

  # Units.
  (check "the unit serves with the checked file"
    (unit.ExecStart == "${pkgs.p2p-cache}/bin/p2p-cache serve --config ${configFile}"
      && unit.ExecReload == "${pkgs.p2p-cache}/bin/p2p-cache reload --config ${configFile}"))
  (check "the socket listens where the node is expected"
    (default.systemd.sockets.p2p-cache.listenStreams == [ "127.0.0.1:5380" ]
      && elem "p2p-cache.socket" (unitOf default).requires && elem "p2p-cache.socket" (unitOf default).after))
  (check "systemd is told of readiness and of life" (unit.Type == "notify" && unit.WatchdogSec > 0))
  (check "the unit of other distributions is the same one" (
    sorted (shim.lines (removeAttrs unit [ "ExecStart" "ExecReload" ]))
      == sorted (without "ExecReload=" (without "ExecStart=" (sectionOf "Service" dist)))
  ))
  (check "other distributions start and stop it alike" (
    let rendered = shim.serviceText (unitOf default); in
    sorted (without "(Requires|After|Documentation)=" (sectionOf "Unit" rendered))
      == sorted (without "(Requires|After|Documentation)=" (sectionOf "Unit" dist))
  ))

  # What the flake offers.
  (check "the flake has package, module, overlay, checks and shell for both kinds of machine"
    (builtins.all (output: attrNames flake.${output} == [ "aarch64-linux" "x86_64-linux" ]) [ "packages" "checks" "devShells" ]
      && attrNames flake.checks.x86_64-linux == [ "module" "package" "vm" ]
      && builtins.pathExists flake.nixosModules.default
      && (flake.overlays.default pkgs { }).p2p-cache.pname == "p2p-cache"
      && flake.devShells.x86_64-linux.default ? inputsFrom))
  (check "the package is built from what there is" (builtins.all builtins.pathExists package.src.fileset))
  (check "the package has completions and manual pages"
    (contains "generate man" package.postInstall && contains "generate completions" package.postInstall))
  (check "the version of the package is that of the workspace"
    (contains "version = \"${package.version}\"" (readFile ../../Cargo.toml)))

  # The test with virtual machines, as far as it can be looked at here.
  (check "the virtual machines of the test use the module"
    (builtins.all (name: elem ../. (nodeOf name).imports && (nodeOf name).services.p2p-cache.enable) [ "alice" "bob" ]))
  (check "the configurations of the virtual machines are sound"
    (builtins.all (name: (evaluate { user = (nodeOf name).services.p2p-cache; }).failed == [ ]) [ "alice" "bob" ]))
]
