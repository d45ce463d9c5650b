# The p2p-cache command, built from this source tree, with its completions and manual pages.
{ lib, rustPlatform, installShellFiles, stdenv }:

let
  inherit (lib) fileset;
in
rustPlatform.buildRustPackage {
  pname = "p2p-cache";
  version = "0.1.0";
  # Only what is compiled: neither a change of the documentation nor `target` builds it anew.
  src = fileset.toSource {
    root = ../.;
    fileset = fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../discovery
      ../http-gateway
      ../node
      ../protocol
      ../simulations
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [ "-p" "p2p-cache" ];
  # The end-to-end tests need a Nix client and network namespaces: `bash tests/run.sh`.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    $out/bin/p2p-cache generate man man
    installManPage man/*
    $out/bin/p2p-cache generate completions completions
    installShellCompletion --bash completions/p2p-cache.bash --fish completions/p2p-cache.fish --zsh completions/_p2p-cache
  '';

  meta = {
    description = "Opt-in peer-to-peer artifact distribution daemon";
    license = with lib.licenses; [ mit asl20 ];
    mainProgram = "p2p-cache";
    platforms = lib.platforms.unix;
  };
}
