# For those who use no flakes: `nix-build -A package`, `nix-build -A tests.vm`, `nix-shell -A shell`; `module` goes into
# `imports` of a NixOS configuration and `overlay` into `nixpkgs.overlays`.
{ pkgs ? import <nixpkgs> { } }:

let
  package = pkgs.callPackage ./nixos-module/package.nix { };
in
{
  inherit package;
  module = ./nixos-module;
  overlay = import ./nixos-module/overlay.nix;

  tests = {
    # Every check is a word of the list; the first one that fails ends the evaluation.
    module = pkgs.writeText "p2p-cache-module" (builtins.concatStringsSep "\n" (import ./nixos-module/tests/eval.nix));
    vm = import ./nixos-module/tests/vm.nix { inherit pkgs; };
  };

  shell = pkgs.mkShell {
    inputsFrom = [ package ];
    packages = with pkgs; [ clippy rustfmt cargo-deny cargo-nextest iproute2 nix python3 ];
  };
}
