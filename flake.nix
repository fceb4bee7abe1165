{
  description = "Keeps declared AI coding agents running in tmux sessions, and tells the truth about them";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = output: lib.genAttrs systems (system: output nixpkgs.legacyPackages.${system});
      packagesOf = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system};
    in
    {
      packages = eachSystem (pkgs: rec {
        agentd = pkgs.callPackage ./nix/package.nix { };
        default = agentd;
      });

      overlays.default = final: _prev: { agentd = final.callPackage ./nix/package.nix { }; };

      nixosModules = rec {
        agentd = ./nix/module.nix;
        default = agentd;
      };

      apps = eachSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (packagesOf pkgs).agentd;
          meta.description = (packagesOf pkgs).agentd.meta.description;
        };
      });

      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/devshell.nix { inherit (packagesOf pkgs) agentd; };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);

      checks = eachSystem (
        pkgs:
        import ./nix/checks.nix {
          inherit nixpkgs pkgs self;
          inherit (packagesOf pkgs) agentd;
        }
      );
    };
}
