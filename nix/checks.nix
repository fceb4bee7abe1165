# What `nix flake check` looks at.
{
  agentd,
  nixpkgs,
  pkgs,
  self,
}:
let
  inherit (pkgs) lib;

  # One virtual machine test for each file there. Their machines have the module.
  virtualMachines = lib.mapAttrs' (
    file: _:
    lib.nameValuePair "vm-${lib.removeSuffix ".nix" file}" (
      pkgs.testers.runNixOSTest {
        imports = [ (./tests + "/${file}") ];
        defaults = ./module.nix;
      }
    )
  ) (builtins.readDir ./tests);

  # What `tests/nix.rs` holds against a small stand-in for nixpkgs, held against the real one.
  failures = lib.runTests (
    import ../tests/nix/module.nix {
      inherit lib;
      evaluate =
        modules:
        (nixpkgs.lib.nixosSystem {
          modules = modules ++ [
            ./module.nix
            { nixpkgs = { inherit pkgs; }; }
          ];
        }).config;
    }
  );
in
{
  package = agentd;

  module =
    if failures == [ ] then
      pkgs.emptyFile
    else
      throw "the module is not what it should be: ${lib.generators.toPretty { } failures}";

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
