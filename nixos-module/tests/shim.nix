# The few functions of nixpkgs that the module uses, so that it can be evaluated without nixpkgs: enough of `lib`, of
# `pkgs` and of the merging of options to see what a configuration of services.p2p-cache comes to.
let
  inherit (builtins)
    all attrNames attrValues concatLists concatStringsSep elem filter hasAttr head isAttrs isBool isInt isList isString
    length listToAttrs map mapAttrs removeAttrs stringLength substring typeOf;

  type = name: check: { inherit name check; };
  override = priority: content: { _override = priority; inherit content; };

  lib = rec {
    # Options.
    mkOption = option: option;
    mkEnableOption = description: { type = types.bool; default = false; inherit description; };
    literalExpression = text: text;
    types = rec {
      bool = type "boolean" isBool;
      str = type "string" isString;
      path = type "path" (value: typeOf value == "path" || (isString value && hasPrefix "/" value));
      package = type "package" (value: isString value || isAttrs value);
      enum = values: type "one of ${concatStringsSep ", " values}" (value: elem value values);
      nullOr = inner: type "null or ${inner.name}" (value: value == null || inner.check value);
      listOf = inner: type "list of ${inner.name}" (value: isList value && all inner.check value);
      attrsOf = inner: type "set of ${inner.name}" (value: isAttrs value && all inner.check (attrValues value));
      submodule = module: type "submodule" isAttrs // module;
    };

    # Definitions. Only the top of the configuration and the settings are merged here.
    mkIf = condition: content: if condition then content else { };
    mkDefault = override 1000;
    mkOptionDefault = content: override 1500 content // { priority = 1500; };
    mkBefore = list: list;

    # Lists, sets and strings.
    inherit (builtins) concatStringsSep elem filter mapAttrs;
    optional = condition: value: if condition then [ value ] else [ ];
    optionalAttrs = condition: value: if condition then value else { };
    genAttrs = names: value: listToAttrs (map (name: { inherit name; value = value name; }) names);
    filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
    mapAttrsToList = function: set: map (name: function name set.${name}) (attrNames set);
    unique = builtins.foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ];
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix = suffix: text: removeSuffix suffix text != text;
    removePrefix = prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
    removeSuffix = suffix: text:
      let kept = stringLength text - stringLength suffix;
      in if kept >= 0 && substring kept (-1) text == suffix then substring 0 kept text else text;
    toInt = text: builtins.fromJSON text;

    # The package and the development shell.
    licenses = { mit = "MIT"; asl20 = "Apache-2.0"; };
    platforms.unix = [ "x86_64-linux" ];
    fileset = { toSource = source: source; unions = files: files; };
    optionalString = condition: text: if condition then text else "";
  };

  pkgs = {
    p2p-cache = "/nix/store/00000000000000000000000000000000-p2p-cache";
    formats.toml = _: {
      type = lib.types.attrsOf (type "anything" (_: true));
      # What `generate` would write, kept so that tests can look at it.
      generate = name: value: "/generated/${name}:${builtins.toJSON value}";
    };
    runCommandLocal = name: environment: script: { outPath = "/checked/${name}"; inherit script; };
    stdenv = { buildPlatform.canExecute = _: true; hostPlatform = { }; };
    callPackage = file: _: import file {
      inherit lib;
      inherit (pkgs) stdenv;
      rustPlatform.buildRustPackage = package: package;
      installShellFiles = "/install-shell-files";
    };
    mkShell = shell: shell;
    writeText = name: text: { outPath = "/text/${name}"; inherit text; };
    testers.runNixOSTest = test: test;
  };

  options = (import ../options.nix { inherit lib pkgs; config = { }; }).options.services.p2p-cache;

  checked = name: value:
    if options.${name}.type.check value then value
    else throw "option services.p2p-cache.${name} is not of the type ${options.${name}.type.name}: ${builtins.toJSON value}";

  # What one configuration of services.p2p-cache comes to; `forced` replaces the list of substituters.
  evaluate = { user ? { }, forced ? null }:
    let
      unknown = filter (name: !hasAttr name options) (attrNames user);
      defined = mapAttrs (name: option: checked name (user.${name} or option.default))
        (removeAttrs options [ "settings" "configFile" ]);
      config = {
        nix.settings.substituters =
          if forced != null then forced else raw.nix.settings.substituters or [ ] ++ [ "https://cache.nixos.org/" ];
        services.p2p-cache = defined // {
          settings = mapAttrs (_: option: option.default) options.settings.type.options
            // mapAttrs (_: definition: definition.content) (raw.services.p2p-cache.settings or { })
            // user.settings or { };
          # The default of this option depends on the configuration.
          configFile = (import ../options.nix { inherit lib pkgs config; }).options.services.p2p-cache.configFile.default;
        };
      };
      raw = (import ../default.nix {
        inherit lib pkgs config;
        options.services.p2p-cache =
          mapAttrs (name: _: { highestPrio = if hasAttr name user then 100 else 1500; }) options;
      }).config;
    in
    assert unknown == [ ] || throw "no such option: services.p2p-cache.${head unknown}";
    raw // {
      inherit config;
      inherit (config.services.p2p-cache) settings;
      failed = map (entry: entry.message) (filter (entry: !entry.assertion) (raw.assertions or [ ]));
    };

  # Unit files as NixOS writes them: a list is one line for each item.
  text = value: if isBool value then (if value then "true" else "false") else toString value;
  lines = section: concatLists (attrValues (mapAttrs
    (key: value: map (item: "${key}=${text item}") (if isList value then value else [ value ]))
    section));
  sections = { Unit, ... }@unit: concatStringsSep "\n" (concatLists (map
    (name: [ "[${name}]" ] ++ lines unit.${name} ++ [ "" ])
    ([ "Unit" ] ++ filter (name: name != "Unit") (attrNames unit))));
  serviceText = unit: sections {
    Unit = {
      Description = unit.description;
      Requires = unit.requires;
      After = unit.after;
      StartLimitIntervalSec = unit.startLimitIntervalSec;
      StartLimitBurst = unit.startLimitBurst;
    };
    Service = unit.serviceConfig;
  };
  socketText = unit: sections {
    Unit.Description = unit.description;
    Socket.ListenStream = unit.listenStreams;
  };
in
{
  inherit lib pkgs options evaluate lines serviceText socketText;
}
