{
  lib,
  stdenv,
  rustPlatform,
  glibc,
  installShellFiles,
  makeBinaryWrapper,
  testers,
  tmux,
  util-linux,
  versionCheckHook,
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = manifest.name;
  inherit (manifest) version;

  __structuredAttrs = true;
  strictDeps = true;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../build.rs
      ../src
      ../examples
      # Cargo needs every target that Cargo.toml names.
      ../benches
      # Unit tests compare them with the code.
      ../docs
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [
    installShellFiles
    makeBinaryWrapper
  ];

  # The launcher is linked statically where possible: see build.rs.
  buildInputs = lib.optional stdenv.hostPlatform.isGnu glibc.static;

  # The unit tests, which run in a build's sandbox. The other tests need users of their own; `tests/run` lends them.
  nativeCheckInputs = [
    tmux
    util-linux
  ];
  cargoTestFlags = [
    "--lib"
    "--bins"
  ];

  doInstallCheck = true;
  nativeInstallCheckInputs = [ versionCheckHook ];
  versionCheckProgramArg = "--version";

  postBuild = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    cargo run --release --frozen --target ${stdenv.hostPlatform.rust.rustcTarget} --example manual -- manual
  '';

  # Wrapped from outside, so that the daemon is still called agentd where processes are listed. It finds its launcher beside itself.
  postInstall = ''
    mkdir -p $out/libexec
    mv $out/bin/agentd $out/bin/agentd-launcher $out/libexec
    makeWrapper $out/libexec/agentd $out/bin/agentd --suffix PATH : ${lib.makeBinPath [ tmux ]}
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installManPage manual/*.[158]
    installShellCompletion --bash manual/agentd.bash --fish manual/agentd.fish --zsh manual/_agentd
  '';

  passthru.tests = import ./virtual-machines.nix { inherit lib testers; };

  meta = {
    inherit (manifest) description;
    license = lib.licenses.mit;
    mainProgram = "agentd";
    platforms = lib.platforms.linux;
  };
}
