# Three virtual machines: an origin and two nodes that find each other by multicast.
#   nix build .#checks.x86_64-linux.vm      or      nix-build -A tests.vm
{ pkgs }:

let
  # A pair of keys for this test alone: what the origin signs is public.
  secretKey = "origin-1:Yv0gj44cvyA0POQx+kjLOTM9CYZ4dLysceWuK/tyVYyDsbZ3/dGlWnbCea/B1yWNYWTQ6WCOTJNwvSPOKAFCEg==";
  publicKey = "origin-1:g7G2d/3RpVp2wnmvwdcljWFk0OlgjkyTcL0jzigBQhI=";

  node = settings: { lib, pkgs, ... }: {
    imports = [ ../. ];
    services.p2p-cache = {
      enable = true;
      openFirewall = true;
      origins = [ "http://origin" ];
      trustedPublicKeys = [ publicKey ];
      settings = { no-dht = true; };
    } // settings;
    nix.settings = {
      experimental-features = [ "nix-command" ];
      # There is no way out of the test's network.
      substituters = lib.mkOverride 10 [ "http://localhost:5380" ];
      trusted-public-keys = lib.mkOverride 10 [ publicKey ];
    };
    environment.systemPackages = [ pkgs.curl pkgs.jq ];
  };
in
pkgs.testers.runNixOSTest {
  name = "p2p-cache";

  nodes = {
    origin = { pkgs, ... }: {
      services.nginx = {
        enable = true;
        virtualHosts.origin.root = "/var/www/cache";
      };
      networking.firewall.allowedTCPPorts = [ 80 ];
      environment.etc."signing-key".text = secretKey;
      nix.settings.experimental-features = [ "nix-command" ];
    };
    # Slow, so that it can die in the middle.
    alice = node { maxUploadSpeed = "4MB/s"; extraSharedKeys = [ publicKey ]; };
    bob = node { };
  };

  testScript = ''
    import json

    def publish(name, mebibytes=32):
        """A store path that the origin has and has signed."""
        origin.succeed(f"head -c {mebibytes}M /dev/urandom > /root/{name}")
        path = origin.succeed(f"nix-store --add /root/{name}").strip()
        origin.succeed(f"nix copy --to 'file:///var/www/cache?secret-key=/etc/signing-key' {path}")
        return path

    def received(machine, source):
        sample = 'p2p_cache_received_bytes_total{source="%s"}' % source
        metrics = machine.succeed("curl -sf http://localhost:5380/metrics").splitlines()
        values = [line.split(" ")[1] for line in metrics if line.startswith(sample)]
        return int(float(values[0])) if values else 0

    def connected(machine):
        status = json.loads(machine.succeed("p2p-cache status --json"))
        return len(status["peers"]) > 0

    origin.start()
    origin.succeed("mkdir -p /var/www/cache")
    origin.wait_for_unit("nginx.service")
    alice.start()
    bob.start()
    for machine in [alice, bob]:
        machine.wait_for_unit("p2p-cache.service")

    with subtest("the port accepts although the daemon does not run"):
        alice.succeed("systemctl stop p2p-cache.service")
        alice.succeed("curl -sf --max-time 30 http://localhost:5380/nix-cache-info | grep 'Priority: 30'")
        alice.wait_for_unit("p2p-cache.service")

    with subtest("the nodes find each other"):
        retry(lambda _: connected(alice) and connected(bob))

    with subtest("a node serves what it has fetched"):
        path = publish("served", 8)
        alice.succeed(f"nix-store --realise {path}")
        origin.succeed("systemctl stop nginx.service")
        bob.succeed(f"nix-store --realise {path}")
        assert received(bob, "peer") >= 8 << 20
        origin.succeed("systemctl start nginx.service")

    with subtest("a private path stays private"):
        private = alice.succeed("echo secret > /root/secret; nix-store --add /root/secret").strip()
        alice.succeed(f"nix-store --query --hash {private}")
        hash = private.removeprefix("/nix/store/")[:32]
        code = bob.succeed(f"curl -s -o /dev/null -w '%{{http_code}}' http://localhost:5380/{hash}.narinfo")
        assert code == "404", code
        bob.fail(f"nix-store --realise {private}")

    with subtest("a peer that dies in mid-transfer is replaced by the origin"):
        path = publish("interrupted", 64)
        alice.succeed(f"nix-store --realise {path}")
        before = received(bob, "peer")
        bob.succeed(f"systemd-run --unit fetch --property Type=oneshot --no-block nix-store --realise {path}")
        retry(lambda _: received(bob, "peer") > before + (4 << 20))
        alice.crash()
        bob.wait_until_succeeds(f"nix-store --check-validity {path}", timeout=120)
        bob.succeed(f"nix-store --verify-path {path}")
        assert received(bob, "origin") > 0

    with subtest("without peers the origin is asked"):
        path = publish("alone", 8)
        bob.succeed(f"nix-store --realise {path}")
  '';
}
