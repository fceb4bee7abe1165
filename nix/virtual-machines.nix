# One virtual machine test for each file in ./tests. Their machines have the module.
{ lib, testers }:
lib.mapAttrs' (
  file: _:
  lib.nameValuePair (lib.removeSuffix ".nix" file) (
    testers.runNixOSTest {
      imports = [ (./tests + "/${file}") ];
      defaults = ./module.nix;
    }
  )
) (builtins.readDir ./tests)
