# The units and tmpfiles rules that the module makes, as plain files for a system that is not NixOS.
{
  # Where the folder `bin` with each of these is.
  agentd ? "/usr/local",
  coreutils ? "/usr",
  tmux ? "/usr",
  # A module with more settings.
  settings ? { },
}:
let
  stand-in = import ./stand-in.nix;
  inherit (stand-in) lib;
  at = name: outPath: stand-in.package name // { inherit outPath; };

  inherit
    (stand-in.evaluate [
      ../../nix/module.nix
      {
        services.agentd = {
          enable = true;
          package = lib.mkDefault (at "agentd" agentd);
          tmuxPackage = lib.mkDefault (at "tmux" tmux);
        };
      }
      settings
    ])
    assertions
    systemd
    ;

  text =
    value:
    if builtins.isBool value then
      lib.boolToString value
    else
      builtins.replaceStrings [ "${stand-in.pkgs.coreutils}" ] [ coreutils ] (toString value);
  lines =
    settings:
    lib.concatMapStringsSep "" (
      name:
      lib.concatMapStringsSep "" (value: "${name}=${text value}\n") (
        if builtins.isList settings.${name} then settings.${name} else [ settings.${name} ]
      )
    ) (lib.attrNames settings);
  section = name: settings: "[${name}]\n${lines settings}";

  # How NixOS names in a unit what systemd names otherwise. Empty lists make no line.
  common = unit: {
    Description = unit.description;
    Documentation = unit.documentation or [ ];
    After = unit.after or [ ];
    Requires = unit.requires or [ ];
    Before = unit.before or [ ];
    Wants = unit.wants or [ ];
    Upholds = unit.upholds or [ ];
    StartLimitIntervalSec = lib.optional (unit ? startLimitIntervalSec) unit.startLimitIntervalSec;
  };
  render =
    unit: sections:
    lib.concatStringsSep "\n" (
      [ (section "Unit" (common unit // unit.unitConfig or { })) ]
      ++ lib.mapAttrsToList section sections
      ++ lib.optional (unit ? wantedBy) (section "Install" { WantedBy = unit.wantedBy; })
    );

  service =
    unit:
    render unit {
      Service = unit.serviceConfig // {
        Environment = ''"PATH=${
          lib.concatStringsSep ":" (map (package: "${package}/bin") (unit.path or [ ]) ++ [ "/usr/bin:/bin" ])
        }"'';
      };
    };
  mount =
    unit:
    render unit {
      Mount = {
        What = unit.what;
        Where = unit.where;
        Type = unit.type;
        Options = unit.options;
      };
    };
  # Of what would have to be escaped, paths have dashes only.
  nameOfMount =
    where: builtins.replaceStrings [ "-" "/" ] [ "\\x2d" "-" ] (lib.removePrefix "/" where);
  units =
    suffix: content: lib.mapAttrs' (name: unit: lib.nameValuePair "${name}.${suffix}" (content unit));

  rules = lib.mapAttrs' (
    name: paths:
    lib.nameValuePair "${name}.conf" (
      lib.concatStringsSep "" (
        lib.concatMap (
          path:
          lib.mapAttrsToList (type: it: "${type} ${path} ${it.mode} ${it.user} ${it.group}\n") paths.${path}
        ) (lib.attrNames paths)
      )
    )
  ) systemd.tmpfiles.settings;

  refused = lib.filter (assertion: !assertion.assertion) assertions;
in
if refused != [ ] then
  throw (lib.concatMapStringsSep "\n" (assertion: assertion.message) refused)
else
  units "service" service systemd.services
  // units "socket" (
    unit:
    render unit {
      Socket = unit.socketConfig // {
        ListenStream = unit.listenStreams;
      };
    }
  ) systemd.sockets
  // units "slice" (unit: render unit { Slice = unit.sliceConfig; }) systemd.slices
  // lib.mapAttrs' (name: lib.nameValuePair "${name}.mount") (
    lib.genAttrs (map (unit: nameOfMount unit.where) systemd.mounts) (
      name: mount (lib.head (lib.filter (unit: nameOfMount unit.where == name) systemd.mounts))
    )
  )
  // rules
