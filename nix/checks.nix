# The checks of `nix flake check`.
{
  agentd,
  nixpkgs,
  pkgs,
  self,
}:
let
  inherit (pkgs) lib;

  virtualMachines = lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") agentd.passthru.tests;

  # The checks that `tests/nix.rs` makes with a small stand-in for nixpkgs, made with nixpkgs' own lib.
  failures = lib.runTests (
    import ../tests/nix/module.nix {
      inherit lib;
      evaluate =
        modules:
        (lib.evalModules {
          modules = modules ++ [
            ./module.nix
            ../tests/nix/options.nix
            (
              { config, ... }:
              {
                _module.args = {
                  inherit pkgs;
                  utils = import "${nixpkgs}/nixos/lib/utils.nix" { inherit config lib pkgs; };
                };
              }
            )
          ];
        }).config;
    }
  );

  # What a whole NixOS makes of a few configurations, among them one that sets every option that makes a difference to units: the
  # units' text, and what it refuses.
  whole =
    settings:
    let
      inherit
        (nixpkgs.lib.nixosSystem {
          modules = [
            ./module.nix
            {
              nixpkgs = { inherit pkgs; };
              services.agentd = settings // {
                enable = true;
              };
            }
          ];
        })
        config
        ;
      texts = map (unit: config.systemd.units.${unit}.text) [
        "agentd.service"
        "agentd.slice"
        "agentd.socket"
        "agentd-tmux.service"
        "run-agentd.mount"
      ];
      refused = lib.filter (
        assertion: !assertion.assertion && lib.hasInfix "agentd" assertion.message
      ) config.assertions;
    in
    assert lib.assertMsg (refused == [ ]) (lib.concatMapStrings (it: it.message) refused);
    lib.concatStrings texts;
  units = pkgs.writeText "agentd-units" (
    lib.concatMapStrings whole [
      { }
      {
        agentHardening = true;
        agentPackages = [ pkgs.hello ];
        limits = {
          IOReadBandwidthMax = [ "/dev/sda 50M" ];
          MemoryMax = "75%";
        };
        logLevel = "debug";
        secretFiles.TOKEN = "/run/keys/token";
        settings.agents = [ { harness = "codex"; } ];
      }
    ]
  );
in
{
  package = agentd;

  module =
    if failures == [ ] then
      units
    else
      throw "checks of the module failed: ${lib.generators.toPretty { } failures}";

  format =
    pkgs.runCommandLocal "agentd-format"
      {
        nativeBuildInputs = [
          pkgs.cargo
          pkgs.deadnix
          pkgs.nixfmt
          pkgs.rustfmt
        ];
      }
      ''
        cd ${self}
        export CARGO_HOME=$TMPDIR
        cargo fmt --check
        find . -name '*.nix' -exec nixfmt --check {} +
        deadnix --fail .
        touch $out
      '';
}
// virtualMachines
