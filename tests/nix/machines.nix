# The virtual machine tests: their machines are sound as far as can be told, and these are their scripts.
{
  lib,
  pkgs,
  evaluate,
}:
let
  load =
    file:
    let
      content = import (../../nix/tests + "/${file}");
    in
    if builtins.isFunction content then content { inherit lib pkgs; } else content;

  withSpecialisations =
    machine:
    let
      config = evaluate [ machine ];
      others = machine.specialisation or { };
    in
    [ config ]
    ++ map (
      name:
      evaluate [
        (removeAttrs machine [ "specialisation" ])
        others.${name}.configuration
      ]
    ) (lib.attrNames others);

  refused = config: lib.filter (assertion: !assertion.assertion) config.assertions;
in
lib.mapAttrs' (
  file: _:
  let
    inherit (load file) name nodes testScript;
    configs = lib.concatMap withSpecialisations (lib.attrValues nodes);
  in
  lib.nameValuePair name {
    refused = map (assertion: assertion.message) (lib.concatMap refused configs);
    commands = map (config: config.systemd.services.agentd.serviceConfig.ExecStart) configs;
    script = testScript;
  }
) (builtins.readDir ../../nix/tests)
