# The p2p-cache command, built from this source tree.
{ lib, rustPlatform }:

rustPlatform.buildRustPackage {
  pname = "p2p-cache";
  version = "0.1.0";
  src = lib.cleanSource ../.;
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [ "-p" "p2p-cache" ];
  # The end-to-end tests need a Nix client and network namespaces: `bash tests/run.sh`.
  doCheck = false;
  meta = {
    description = "Opt-in peer-to-peer artifact distribution daemon";
    license = with lib.licenses; [ mit asl20 ];
    mainProgram = "p2p-cache";
    platforms = lib.platforms.unix;
  };
}
