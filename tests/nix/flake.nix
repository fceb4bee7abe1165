# What the flake offers, its lock, and the package.
{
  lib,
  pkgs,
  ...
}:
let
  flake = import ../../flake.nix;
  outputs = flake.outputs {
    self = outputs // {
      outPath = "/opt/source";
    };
    nixpkgs = {
      inherit lib;
      legacyPackages = lib.genAttrs systems (system: pkgs // { stdenv = pkgs.stdenvOf system; });
    };
  };
  systems = [
    "aarch64-linux"
    "x86_64-linux"
  ];
  everywhere = value: lib.genAttrs systems (_: value);
  here = kind: outputs.${kind}.x86_64-linux;

  lock = builtins.fromJSON (builtins.readFile ../../flake.lock);
  manifest = (lib.importTOML ../../Cargo.toml).package;
  crates = (lib.importTOML ../../Cargo.lock).package;
in
lib.mapAttrs' (name: lib.nameValuePair "test ${name}") {
  "there is everything on every system" = {
    expr = lib.mapAttrs (_: lib.mapAttrs (_: lib.attrNames)) {
      inherit (outputs) packages apps devShells;
    };
    expected = {
      packages = everywhere [
        "agentd"
        "default"
      ];
      apps = everywhere [ "default" ];
      devShells = everywhere [ "default" ];
    };
  };
  "what is not of a system is there" = {
    expr = {
      modules = outputs.nixosModules;
      overlay = lib.attrNames (outputs.overlays.default pkgs pkgs);
    };
    expected = {
      modules = {
        agentd = ../../nix/module.nix;
        default = ../../nix/module.nix;
      };
      overlay = [ "agentd" ];
    };
  };
  "the formatter is there on every system" = {
    expr = lib.attrNames outputs.formatter;
    expected = systems;
  };
  "every file of tests is a check" = {
    expr = lib.attrNames (here "checks");
    expected = lib.sort (a: b: a < b) (
      [
        "format"
        "module"
        "package"
      ]
      ++ map (file: "vm-${lib.removeSuffix ".nix" file}") (
        lib.attrNames (builtins.readDir ../../nix/tests)
      )
    );
  };
  "the program is the package's" = {
    expr = (here "apps").default.program;
    expected = "${(here "packages").default}/bin/agentd";
  };
  "the shell is for the package" = {
    expr = (here "devShells").default.inputsFrom;
    expected = [ (here "packages").agentd ];
  };
  "the shell has all that tests need" = {
    expr =
      let
        # Lines such as `strace:  strace strace strace strace`; the last column is nixpkgs'.
        rows = lib.concatMap (
          line:
          let
            match = builtins.match "[a-z0-9+:_-]+: +[^ ]+ +[^ ]+ +[^ ]+ +([^ ]+)" line;
          in
          lib.optionals (match != null) match
        ) (lib.splitString "\n" (builtins.readFile ../need));
        wanted = map (name: lib.removePrefix "python3Packages." name) (lib.unique rows);
        got = map (package: package.name) (here "devShells").default.packages;
      in
      {
        missing = lib.filter (name: !lib.any (lib.hasInfix name) got) wanted;
        isRead = lib.length wanted > 10;
      };
    expected = {
      missing = [ ];
      isRead = true;
    };
  };

  "the one input is locked as it is declared" = {
    expr =
      let
        inherit (lock.nodes.nixpkgs) original;
      in
      {
        declared = lib.mapAttrs (_: input: input.url) flake.inputs;
        locked = "${original.type}:${original.owner}/${original.repo}/${original.ref}";
        names = lib.attrNames lock.nodes;
        inherit (lock) root version;
        inherit (lock.nodes.root) inputs;
      };
    expected = rec {
      declared.nixpkgs = locked;
      locked = "github:NixOS/nixpkgs/nixos-26.05";
      names = [
        "nixpkgs"
        "root"
      ];
      root = "root";
      version = 7;
      inputs.nixpkgs = "nixpkgs";
    };
  };
  "the lock is of one revision" = {
    expr =
      let
        inherit (lock.nodes.nixpkgs) locked original;
      in
      {
        isSameRepository = locked.owner == original.owner && locked.repo == original.repo;
        isRevision = builtins.match "[0-9a-f]{40}" locked.rev != null;
        isHash = builtins.match "sha256-[A-Za-z0-9+/]{43}=" locked.narHash != null;
      };
    expected = {
      isSameRepository = true;
      isRevision = true;
      isHash = true;
    };
  };

  "the package is the crate" = {
    expr = {
      inherit ((here "packages").agentd) pname version;
      inherit ((here "packages").agentd.meta) description mainProgram;
      lock = (here "packages").agentd.cargoLock.lockFile;
    };
    expected = {
      pname = manifest.name;
      inherit (manifest) version description;
      mainProgram = "agentd";
      lock = ../../Cargo.lock;
    };
  };
  "what the package is made of is there" = {
    expr = lib.filter (file: !builtins.pathExists file) (here "packages").agentd.src.fileset;
    expected = [ ];
  };
  "the package is built as nixpkgs' reviewers ask" = {
    expr = {
      inherit ((here "packages").agentd) __structuredAttrs doInstallCheck strictDeps;
      doCheck = (here "packages").agentd.doCheck or true;
      tests = lib.attrNames (here "packages").agentd.passthru.tests;
    };
    expected = {
      __structuredAttrs = true;
      doInstallCheck = true;
      strictDeps = true;
      doCheck = true;
      tests = map (lib.removeSuffix ".nix") (lib.attrNames (builtins.readDir ../../nix/tests));
    };
  };
  "the launcher is beside the daemon" = {
    expr = lib.hasInfix "mv $out/bin/agentd $out/bin/agentd-launcher $out/libexec\n" (here "packages")
    .agentd.postInstall;
    expected = true;
  };
  "Cargo.lock is of this version" = {
    expr = map (crate: crate.version) (lib.filter (crate: crate.name == manifest.name) crates);
    expected = [ manifest.version ];
  };
  # Others would have to be locked in the package as well.
  "every dependency is from the registry" = {
    expr = lib.filter (
      crate: crate ? source && crate.source != "registry+https://github.com/rust-lang/crates.io-index"
    ) crates;
    expected = [ ];
  };
  "the flake says what the crate says" = {
    expr = flake.description;
    expected = manifest.description;
  };
}
