{
  description = "Opt-in peer-to-peer artifact distribution daemon";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forEach = build: nixpkgs.lib.genAttrs systems (system: build (import ./. { pkgs = nixpkgs.legacyPackages.${system}; }));
    in
    {
      packages = forEach (project: { default = project.package; p2p-cache = project.package; });
      overlays.default = import ./nixos-module/overlay.nix;
      nixosModules.default = ./nixos-module;
      checks = forEach (project: { inherit (project) package; } // project.tests);
      devShells = forEach (project: { default = project.shell; });
    };
}
