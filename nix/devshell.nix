# Everything that `.ci/run` uses, as `tests/need` lists it, and what makes writing Rust and Nix a pleasure.
{
  mkShell,
  agentd,
  cargo,
  clippy,
  curl,
  deadnix,
  e2fsprogs,
  fish,
  gcc,
  mmdebstrap,
  nix,
  nixfmt,
  python3,
  rust-analyzer,
  rustfmt,
  strace,
  systemd,
  tmux,
  util-linux,
  valgrind,
  zsh,
}:
mkShell {
  inputsFrom = [ agentd ];
  packages = [
    cargo
    clippy
    curl
    deadnix
    e2fsprogs
    fish
    gcc
    mmdebstrap
    nix
    nixfmt
    (python3.withPackages (packages: [ packages.prometheus-client ]))
    rust-analyzer
    rustfmt
    strace
    systemd
    tmux
    util-linux
    valgrind
    zsh
  ];
}
