# What `tests/nix.rs` looks at.
let
  stand-in = import ./stand-in.nix;
  inherit (stand-in) lib;
  surroundings = stand-in // {
    evaluate = modules: stand-in.evaluate ([ ../../nix/module.nix ] ++ modules);
  };

  tests =
    import ./module.nix { inherit (surroundings) evaluate lib; } // import ./flake.nix surroundings;
  failures = lib.runTests tests;

  module = import ../../nix/module.nix {
    inherit (stand-in) lib pkgs;
    config = { };
    utils = { };
  };

  # An option, or those of a set of options, by their names.
  named =
    name: option:
    if option ? type then
      { ${name} = option; }
    else
      lib.foldl' (all: inner: all // named "${name}.${inner}" option.${inner}) { } (lib.attrNames option);

  line = failure: ''
    FAILED: ${lib.removePrefix "test " failure.name}
      is        ${builtins.toJSON failure.result}
      should be ${builtins.toJSON failure.expected}
  '';
in
{
  # What does not hold, for people; empty if all does.
  report = lib.concatMapStringsSep "" line failures;
  count = lib.length (lib.attrNames tests);

  # The module's options as the rows of a table in Markdown begin: name, type, default.
  options =
    lib.mapAttrsToList
      (
        name: option:
        let
          code = text: "`${text}`";
          default =
            if option ? defaultText then
              (if option.defaultText._type == "literalMD" then lib.id else code) option.defaultText.text
            else
              code (builtins.toJSON option.default);
        in
        "| ${code name} | ${option.type.name} | ${default}"
      )
      (
        lib.foldl' (all: name: all // named name module.options.services.agentd.${name}) { } (
          lib.attrNames module.options.services.agentd
        )
      );

  # How a jcard is built with that agentd, and with these files beside it.
  build =
    { agentd, etc }:
    (surroundings.evaluate [
      {
        services.agentd = {
          enable = true;
          package = stand-in.package "agentd" // {
            outPath = agentd;
          };
          settings.agent.harness = "codex";
        };
        environment.etc = lib.genAttrs etc (_: {
          source = "/var/lib/somewhere";
        });
      }
    ]).environment.etc."stereos/jcard.toml".source.buildCommand;

  # The scripts of the virtual machine tests, by name.
  machines = import ./machines.nix { inherit (surroundings) evaluate lib pkgs; };
}
