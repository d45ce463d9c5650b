# A configuration in which every option is set.
(import ./shim.nix).evaluate {
  user = {
    enable = true;
    openFirewall = true;
    share = "lan";
    maxUploadSpeed = "20Mbit/s";
    maxStoreSize = "200GiB";
    peers = [ "/dns4/cache.office.example/tcp/5381" ];
    origins = [ "https://cache.example.org" "https://cache.nixos.org" ];
    trustedPublicKeys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
    extraSharedKeys = [ "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
    interfaces = [ "enp1s0" ];
    metered = true;
    settings = { no-dht = true; upload-slots = 4; };
    environmentFile = "/run/secrets/p2p-cache.env";
    credentials.swarm-salt = "/run/secrets/p2p-cache-salt";
  };
}
