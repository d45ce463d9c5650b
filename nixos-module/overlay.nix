# Adds `pkgs.p2p-cache`.
final: _: { p2p-cache = final.callPackage ./package.nix { }; }
