# As much of NixOS's options as the module uses, for nixpkgs' own lib: a whole NixOS for each test would take a minute and gigabytes.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  listOf =
    type:
    mkOption {
      type = types.listOf type;
      default = [ ];
    };
  setOf =
    type:
    mkOption {
      type = types.attrsOf type;
      default = { };
    };
  string =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
  flag = mkOption {
    type = types.bool;
    default = false;
  };
  # Options that are declared, and any others.
  submodule =
    module:
    types.submodule [
      { freeformType = types.lazyAttrsOf types.unspecified; }
      module
    ];
in
{
  options = {
    assertions = listOf types.unspecified;
    nixpkgs.overlays = listOf types.unspecified;
    environment.systemPackages = listOf types.unspecified;
    environment.etc = setOf (submodule {
      options.source = mkOption { type = types.path; };
    });
    systemd = {
      services = setOf (submodule {
        options = {
          after = listOf types.str;
          path = listOf types.unspecified;
          requires = listOf types.str;
          serviceConfig = setOf types.unspecified;
        };
      });
      sockets = setOf (submodule { });
      slices = setOf (submodule { });
      mounts = listOf (submodule { });
      tmpfiles = {
        rules = listOf types.str;
        settings = setOf (types.attrsOf (types.attrsOf (submodule { })));
      };
    };
    users.groups = setOf (
      types.submodule (
        { name, ... }:
        {
          options.members = listOf types.str;
          config.members = lib.attrNames (
            lib.filterAttrs (_: user: lib.elem name user.extraGroups) config.users.users
          );
        }
      )
    );
    users.users = setOf (
      submodule (
        { config, name, ... }:
        {
          options = {
            description = string "";
            extraGroups = listOf types.str;
            group = string "";
            home = string "/var/empty";
            isNormalUser = flag;
            isSystemUser = flag;
            packages = listOf types.unspecified;
          };
          config = lib.mkIf config.isNormalUser {
            group = lib.mkDefault "users";
            home = lib.mkDefault "/home/${name}";
            isSystemUser = lib.mkDefault false;
          };
        }
      )
    );
  };
}
